"""Work that is killed, and what it leaves."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def content(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the lock."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def dies_at(call: int, owner: Any, name: str, work: Callable[[], object]) -> bool:
    """Run in a process that is killed right before a call of a function; whether it was."""
    child = os.fork()
    if child == 0:
        function, calls = getattr(owner, name), iter(range(call))

        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        setattr(owner, name, counted)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
