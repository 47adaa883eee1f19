"""Imports without Python's collector of cycles, which would look through the same million objects again and again."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect nothing during the body, and nothing of what it leaves behind: modules stay until the process ends.

    Where torch is there already, the process is another program's, and its objects may go: those are not kept.
    """
    alone = "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if alone:
            gc.freeze()
        gc.enable()
