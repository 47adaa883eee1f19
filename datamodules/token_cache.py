"""Token ids of a corpus' captions on the disk, filled by whichever worker tokenises a caption first."""

import hashlib
import json
import logging
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_VERSION = 1  # of the files: raise it whenever they change meaning
_CHECKSUM = 4  # bytes of a CRC-32
_LARGE = 1e9


class TokenCache:
    """A table with one row a caption: its ids and their CRC-32.

    Any number of processes read and write it at once, without locks: they would write the same, and a row counts only
    if its checksum fits, so that a row that is half written, cut off or a hole of the file is one that is not there.
    Where the disk is full the cache stays as it is. Pickled it is its arguments.

    Args:
        folder: the cache folder.
        fingerprint: of the corpus.
        tokenizer: all that ids depend on beside the caption.
        captions: how many there are.
        context_length: ids of a caption.
        vocab_size: ids are below it; up to 65,536 they take two bytes each, else four.

    Raises:
        ValueError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, fingerprint: str, tokenizer: str, captions: int, context_length: int, vocab_size: int
    ) -> None:
        self._arguments = (folder, fingerprint, tokenizer, captions, context_length, vocab_size)
        self.captions = captions
        self._dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<i4")
        self._ids = context_length * self._dtype.itemsize
        identity = [_VERSION, fingerprint, tokenizer, captions, context_length, self._dtype.str]
        path = folder / f"tokens-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.bin"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"cannot write {path} ({error.strerror}): set PROTOCLIP_CACHE") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._writes = True
        size = captions * (self._ids + _CHECKSUM)
        if size > _LARGE and os.fstat(self._descriptor).st_size == 0:
            logger.info("the ids of %d captions are kept in %s, which will grow to %.1f GB", captions, path, size / 1e9)

    def rows(self, number: int) -> Tensor | None:
        """The ids of a caption, int64 [context_length]; None where they are not there yet."""
        self._check(number)
        width = self._ids + _CHECKSUM
        row = os.pread(self._descriptor, width, number * width)
        ids = row[: self._ids]
        if len(row) != width or zlib.crc32(ids) != int.from_bytes(row[self._ids :], "little"):
            return None
        return torch.from_numpy(np.frombuffer(ids, self._dtype).astype(np.int64))

    def keep(self, number: int, ids: Tensor) -> None:
        """Write the ids of a caption [context_length]."""
        self._check(number)
        row = ids.numpy().astype(self._dtype).tobytes()
        assert len(row) == self._ids, f"{ids.shape} ids for {self._ids // self._dtype.itemsize}"
        if not self._writes:
            return
        row += zlib.crc32(row).to_bytes(_CHECKSUM, "little")
        try:
            os.pwrite(self._descriptor, row, number * len(row))
        except OSError as error:  # a full disk or a lost one: captions are tokenised each time then
            logger.warning("ids of captions are no longer kept (%s): set PROTOCLIP_CACHE elsewhere", error.strerror)
            self._writes = False

    def _check(self, number: int) -> None:
        if not 0 <= number < self.captions:
            raise IndexError(f"caption {number} of {self.captions}")

    def __reduce__(self) -> tuple[type["TokenCache"], tuple[Any, ...]]:
        return TokenCache, self._arguments
