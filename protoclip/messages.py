"""Errors as one line for whoever has to mend something."""

import re
from dis import opname

_WORKER = re.compile(r"Caught \w+ in \w+ worker process \d+\.\nOriginal Traceback")
_CLASS = re.compile(r"^[\w.]+: ")


def one_line(error: BaseException) -> str:
    """The line of an error that says what to mend; an error of a loader's worker has it below a whole traceback.

    Returns:
        One line; the name of the error's class where it says nothing.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _CLASS.sub("", lines[-1], count=1) if _WORKER.match(str(error)) else lines[0]


def raised_in(error: BaseException) -> str:
    """Name of the module whose ``raise`` an exception comes of; nothing where a built-in function raised it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or opname[traceback.tb_frame.f_code.co_code[traceback.tb_lasti]] != "RAISE_VARARGS":
        return ""
    return str(traceback.tb_frame.f_globals.get("__name__", ""))
