"""Checkpoints that a killed process, a full disk or a flipped bit cannot turn into wrong results."""

import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from protoclip.files import replacing, sync_folder, temporary_beside

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
VERSION = "pytorch-lightning_version"
"""What every checkpoint of a trainer says, and weights alone do not."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What a file system says that has no hard links; the previous checkpoint is not kept there."""
DAMAGE = (
    *(BadZipFile, EOFError, NotImplementedError, OSError, OverflowError),
    *(RuntimeError, ValueError, struct.error, zlib.error),
)
"""What ``zipfile`` and torch raise on an archive with wrong bytes."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and replaces it, keeps the last but one, and reads nothing that is damaged."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: object = None
    ) -> None:
        """Replace a checkpoint; the old ``last.ckpt`` becomes ``previous.ckpt``.

        Raises:
            OSError: it could not be written (no space left, say); the old one is as it was.
        """
        assert storage_options is None
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        previous = path.with_name(PREVIOUS)
        kept = temporary_beside(previous)
        try:
            with replacing(path) as file:
                _write(checkpoint, file)
                if path.name == LAST and path.exists():
                    _link(path, kept)
            if kept.exists():
                kept.replace(previous)  # not before: a kill between the two would leave twice the same
                sync_folder(path.parent)
        finally:
            kept.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; ``weights_only`` is always true.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged; the message says how to go on.
        """
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of plain types and tensors onto the CPU, after a look at its check sums.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or no checkpoint; the message says how to go on.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except DAMAGE as error:
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
    if path.name != LAST:  # it may be anything, which is not to be removed
        raise ValueError(f"{path} is no checkpoint ({reason}): give runs/NAME/HASH, or a file in its checkpoints")
    previous = path.with_name(PREVIOUS)
    usable = _is_readable(previous)
    mend = f"to go on after the episode before it, mv {previous} {path}" if usable else "remove it to start anew"
    raise ValueError(f"{path} is damaged ({reason}): {mend}")


def _read(file: BinaryIO) -> dict[str, Any]:
    with ZipFile(file) as archive:
        if broken := archive.testzip():  # torch does not compare them
            raise BadZipFile(f"wrong check sum of {broken}")
    file.seek(0)
    checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, dict) or VERSION not in checkpoint:
        raise ValueError(f"it holds no {VERSION}")
    return checkpoint


def _is_readable(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            _read(file)
    except DAMAGE:
        return False
    return True


def _write(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's archive writer hides what the file said
        cause = error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, file.name) from error
        raise


def _link(path: Path, kept: Path) -> None:
    try:
        kept.hardlink_to(path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
