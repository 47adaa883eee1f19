"""Mistakes that the user can mend are told in one line, with exit code 2 and no traceback; all else keeps its own.

A mistake is what Hydra and OmegaConf say of a config, a ``ValueError`` that this project's own code raises,
and what the system refuses: no space, no permission. A ``ValueError`` out of a library is a fault of the program.
"""

import errno
import logging
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, OmegaConfBaseException

from protoclip.cli.compose import known_options
from protoclip.cli.explain import explain_hydra, explain_interpolation
from protoclip.messages import one_line, raised_in

PACKAGES = ("protoclip", "datamodules", "callbacks")
REFUSALS = {
    errno.ENOSPC: "free some space and start the same command again",
    errno.EDQUOT: "free some of your quota and start the same command again",
    errno.EACCES: "change its permissions, or choose another place, such as runs=FOLDER",
    errno.EROFS: "choose a place that can be written, such as runs=FOLDER",
    errno.ENOTDIR: "choose a folder, such as runs=FOLDER",
    errno.EEXIST: "choose a folder, such as runs=FOLDER",
}
RESOLVING = "ValueError raised while resolving interpolation: "
"""What OmegaConf puts before the words of this project's resolvers."""


def exit_code(command: Callable[[], object]) -> int:
    """Run a command; turn a user's mistake into one line on stderr, where warnings are lines too.

    Returns:
        Exit code: 0, or 2 after a mistake.
    """
    _show_warnings()
    try:
        command()
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        line = told(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _show_warnings() -> None:
    """Each warning as a line on stderr, once: parts of a run are built more than once.

    Without a handler, open_clip adds one of another format when it first logs.
    """
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        new = line not in seen
        seen.add(line)
        return new

    handler = logging.StreamHandler()
    handler.addFilter(is_new)
    logging.basicConfig(format="%(message)s", handlers=[handler])


def told(error: BaseException) -> str | None:
    """The one line for a mistake, None for a fault of the program."""
    if isinstance(error, HydraException):
        return explain_hydra(error, known_options())
    if isinstance(error, InterpolationKeyError):
        return explain_interpolation(error)
    if isinstance(error, OmegaConfBaseException):
        line = str(error).strip().splitlines()[0].removeprefix(RESOLVING)
        return _missing(line) if isinstance(error, InterpolationToMissingValueError) else _environment(line)
    if isinstance(error, OSError) and error.errno in REFUSALS:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}: {REFUSALS[error.errno]}"
    if isinstance(error, ValueError) and _ours(error):
        return one_line(error)
    return None


def _missing(line: str) -> str:
    name = line.rpartition(" ")[2]
    return f"{name} needs a value: add {name}=VALUE"


def _environment(line: str) -> str:
    return f"{line}: set it to the folder of the data" if line.startswith("Environment variable") else line


def _ours(error: ValueError) -> bool:
    """Whether the code that raised it is of this project, in this process or in a loader's worker."""
    return any(name.split(".")[0] in PACKAGES for name in (raised_in(error), type(error).__module__))
