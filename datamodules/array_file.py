"""Named arrays in one file, of which a piece is read at a time.

Read by ``pread``, not mapped: pages that a process touches of a mapped file count as its own memory, sixteen around each
one that it needs, until the whole file does; and a full disk kills a process that writes to a map.
"""

import json
import os
import struct
import weakref
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.locations import written_atomically

_PREFIX = struct.Struct("<II")  # bytes of the header and its CRC-32


class ArrayFile:
    """One-dimensional arrays and some facts, written once.

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
        size, checksum = _PREFIX.unpack(os.pread(self._descriptor, _PREFIX.size, 0).ljust(_PREFIX.size, b"\0"))
        header = os.pread(self._descriptor, size, _PREFIX.size)
        if size == 0 or len(header) != size or zlib.crc32(header) != checksum:
            raise ValueError(f"{path} is damaged: remove it")
        described = json.loads(header)
        if os.fstat(self._descriptor).st_size != described["size"]:
            raise ValueError(f"{path} is damaged, {described['size']} bytes were written: remove it")
        self.facts: dict[str, Any] = described["facts"]
        self._arrays: dict[str, tuple[str, int, int]] = described["arrays"]

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
        data = os.pread(self._descriptor, (stop - start) * width, offset + start * width)
        if len(data) != (stop - start) * width:
            raise ValueError(f"{self.path} is damaged: remove it and start again")
        return np.frombuffer(data, dtype)

    def __reduce__(self) -> tuple[type["ArrayFile"], tuple[Path]]:
        return ArrayFile, (self.path,)


def write_arrays(path: Path, arrays: Mapping[str, Sequence[NDArray[Any]]], facts: Mapping[str, object]) -> None:
    """Write a file for :class:`ArrayFile`, whole or not at all.

    Args:
        path: of the file.
        arrays: each in parts of one type, at least one.
        facts: what JSON can hold.

    Raises:
        ValueError: the folder cannot be written or is full.
    """
    described: dict[str, tuple[str, int, int]] = {}

    def header(start: int) -> bytes:
        offset = start
        for name, parts in arrays.items():
            described[name] = (parts[0].dtype.str, offset, sum(map(len, parts)))
            offset += sum(part.nbytes for part in parts)
        return json.dumps({"facts": facts, "arrays": described, "size": offset}).encode()

    start = _PREFIX.size + len(header(0)) + 16 * (1 + len(arrays))  # room for what the offsets grow by
    text = header(start).ljust(start - _PREFIX.size)
    with written_atomically(path) as file:
        file.write(_PREFIX.pack(len(text), zlib.crc32(text)) + text)
        for parts in arrays.values():
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
