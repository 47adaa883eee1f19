"""Errors as one line for whoever has to mend something."""

import re

_WORKER = re.compile(r"Caught \w+ in \w+ worker process \d+\.\nOriginal Traceback")
_CLASS = re.compile(r"^[\w.]+: ")


def told(error: BaseException) -> str:
    """The one line of an error that says what to mend.

    That of the first ``ValueError`` in a chain of causes (Hydra wraps what a constructor raised), else of the last one
    in it. An error of a loader's worker holds the worker's whole traceback, and its line at the end.

    Returns:
        One line; the name of the error's class where it says nothing.
    """
    while error.__cause__ is not None and not isinstance(error, ValueError):
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _CLASS.sub("", lines[-1], count=1) if _WORKER.match(str(error)) else lines[0]
