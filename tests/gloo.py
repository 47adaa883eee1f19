"""Two processes that wait for work, as torchrun would have started them; shared by all tests that need several."""

import faulthandler
import os
import socket
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

T = TypeVar("T")
WORLD = 2


class Pool:
    """Runs functions on two ranks of one gloo group; they start with the first function and stay.

    Args:
        timeout: seconds after which a function that hangs ends its process, with a traceback on stderr.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self._ranks: list[ProcessPoolExecutor] = []

    def __call__(self, function: Callable[..., T], *args: Any) -> list[T]:
        """Results of a module-level function by rank.

        Where a process dies new ones try once more: glibc has ended one in thousands of calls for a damaged heap.

        Raises:
            BaseException: what the function raised on the first rank that raised.
            BrokenProcessPool: a process died or hung twice.
        """
        try:
            return self._results(function, *args)
        except BrokenProcessPool as error:
            warnings.warn(f"{function.__name__} once more: {error}", stacklevel=2)
            return self._results(function, *args)

    def _results(self, function: Callable[..., T], *args: Any) -> list[T]:
        if not self._ranks:
            self._ranks = _start()
        results = [rank.submit(_call, self.timeout, function, *args) for rank in self._ranks]
        wait(results)
        errors = [error for result in results if (error := result.exception())]
        if broken := next((error for error in errors if isinstance(error, BrokenProcessPool)), None):
            self.close()
            raise broken from next((error for error in errors if error is not broken), None)
        if errors:
            raise errors[0]
        return [result.result() for result in results]

    def close(self) -> None:
        """End the processes."""
        for rank in self._ranks:
            rank.shutdown()
        self._ranks = []


def _start() -> list[ProcessPoolExecutor]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = get_context("spawn")
    return [ProcessPoolExecutor(1, spawn, initializer=_join, initargs=(rank, port)) for rank in range(WORLD)]


def _join(rank: int, port: int) -> None:
    """Become a rank, before Lightning is imported and looks at the environment."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",
    }
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")


def _call(timeout: float, function: Callable[..., T], *args: Any) -> T:
    faulthandler.dump_traceback_later(timeout, exit=True)
    try:
        return function(*args)
    finally:
        faulthandler.cancel_dump_traceback_later()
