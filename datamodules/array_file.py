"""Named arrays in one file, of which a piece is read at a time.

Read by ``pread``, not mapped: the pages of a map that a process touches count as its own memory, sixteen around each
one that it needs, until the whole file does; and where a mapped file is cut, the process is killed.
"""

import json
import os
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.locations import written_atomically

_END = struct.Struct("<QII")  # where the description begins, its bytes and its CRC-32


class ArrayFile:
    """One-dimensional arrays and some facts, written once by :func:`written_arrays`.

    Pickled it is its path: another process opens the file for itself.

    Args:
        path: of the file.

    Attributes:
        facts: what was written beside the arrays.

    Raises:
        ValueError: the file is damaged, or not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ValueError(f"cannot read {path} ({error.strerror}): start again, it is made anew") from error
        weakref.finalize(self, os.close, self._descriptor)
        size = os.fstat(self._descriptor).st_size
        begin, length, checksum = _END.unpack(self._bytes(max(0, size - _END.size), _END.size))
        description = self._bytes(begin, length) if begin + length + _END.size == size else b""
        if not description or zlib.crc32(description) != checksum:
            raise self._damaged()
        described = json.loads(description)
        self.facts: dict[str, Any] = described["facts"]
        self._arrays: dict[str, tuple[str, int, int]] = described["arrays"]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def count(self, name: str) -> int:
        """Length of an array."""
        return self._arrays[name][2]

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """A piece of an array [stop - start].

        Raises:
            ValueError: the file was cut since it was opened.
        """
        dtype, offset, count = self._arrays[name]
        assert 0 <= start <= stop <= count, f"{name}: [{start}:{stop}] of {count}"
        width = np.dtype(dtype).itemsize
        return np.frombuffer(self._bytes(offset + start * width, (stop - start) * width), dtype)

    def _bytes(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise self._damaged()
        return data

    def _damaged(self) -> ValueError:
        return ValueError(f"{self.path} is damaged: remove it and start again")

    def __reduce__(self) -> tuple[type["ArrayFile"], tuple[Path]]:
        return ArrayFile, (self.path,)


class ArrayWriter:
    """What :func:`written_arrays` gives: arrays are added one after the other.

    Attributes:
        facts: what JSON can hold, to be kept beside the arrays.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._arrays: dict[str, tuple[str, int, int]] = {}
        self.facts: dict[str, object] = {}

    def add(self, name: str, parts: Iterable[NDArray[Any]], dtype: str) -> None:
        """Write an array, given in parts of its type."""
        offset = self._file.tell()
        count = 0
        for part in parts:
            assert part.dtype == dtype
            self._file.write(part.data)
            count += len(part)
        self._arrays[name] = (dtype, offset, count)

    def add_bounds(self, name: str, lengths: Sequence[NDArray[Any]]) -> None:
        """Write where pieces of these lengths, given in parts, begin, and where the last one ends [pieces + 1]."""
        dtype = np.min_scalar_type(sum(int(part.sum()) for part in lengths))

        def parts() -> Iterator[NDArray[Any]]:
            end = np.zeros(1, np.int64)
            yield end.astype(dtype)
            for part in lengths:
                ends = np.cumsum(part, dtype=np.int64) + end
                yield ends.astype(dtype)
                end = ends[-1:] if len(ends) else end

        self.add(name, parts(), dtype.str)

    def finish(self) -> None:
        """Write what the file holds."""
        description = json.dumps({"facts": self.facts, "arrays": self._arrays}).encode()
        begin = self._file.tell()
        self._file.write(description + _END.pack(begin, len(description), zlib.crc32(description)))


@contextmanager
def written_arrays(path: Path) -> Iterator[ArrayWriter]:
    """A file for :class:`ArrayFile` that appears whole or not at all.

    Raises:
        ValueError: the folder cannot be written or is full.
    """
    with written_atomically(path) as file:
        writer = ArrayWriter(file)
        yield writer
        writer.finish()
