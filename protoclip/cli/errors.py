"""Mistakes that the user can mend are told in one line, with exit code 2 and no traceback."""

import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

MISTAKES = (ValueError, HydraException, OmegaConfBaseException)
"""Our own checks raise ``ValueError``; whatever is not listed is a fault of the program and keeps its traceback."""


def exit_code(command: Callable[[], object]) -> int:
    """Run a command; turn a user's mistake into one line on stderr.

    Returns:
        Exit code: 0, or 2 after a mistake.
    """
    try:
        command()
    except MISTAKES as error:
        print(f"error: {_told(error)}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _told(error: BaseException) -> str:
    """The first line of what was wrong in the first place: Hydra wraps what a constructor raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0]
