"""Files that are whole or absent, at whatever moment their writer dies."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import BinaryIO


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in, if they are not there.

    Raises:
        ValueError: it is where the system makes none, such as below ``/proc``.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise ValueError(f"no folder can be made at {path}: choose another place") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the body is done, on the disk by then; else ``path`` stays.

    Temporary files that dead writers left in the folder are removed.
    """
    remove_stale(path.parent)
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill that becomes ``path`` when the body is done; where the body fails there is none.

    What a writer that was killed left of the same folder is removed.

    Raises:
        ValueError: there is something at ``path``, or no folder can be made there.
    """
    if path.exists():
        raise ValueError(f"{path} exists: give a folder that does not")
    make_folder(path.parent)
    for old in path.parent.glob(f".{escape(path.name)}.*.partial"):
        writer = old.name.split(".")[-2]
        if writer.isdecimal() and not _another_lives(int(writer)):
            shutil.rmtree(old)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        for file in partial.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder, which tells this process as its writer."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_stale(folder: Path) -> None:
    """Remove temporary files whose writers are dead; a process writes one file at a time, so its own are stale too."""
    for file in folder.glob(".*.tmp"):
        writer = file.name.split(".")[-2]
        if writer.isdecimal() and not _another_lives(int(writer)):
            file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _another_lives(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
