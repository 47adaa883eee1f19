"""Plain CSV and TSV: no quote, each line a row. Of one nothing need be copied, since each row can be found again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.csv_columns import IrregularTable
from datamodules.stored_texts import blank_texts

MAX_ROW = 2**20
"""Bytes of the longest row that is plain; so much is read at a time: what fits the processor's cache."""
_BOM = b"\xef\xbb\xbf"
_VISIBLE = 14
"""Below it are tab, newline, return and what no plain table holds."""
_BYTE = np.uint64(sum(byte << 61 - 8 * byte for byte in range(8)))
"""Times 256 to the power of n, its three highest bits are n."""


@dataclass(frozen=True)
class PlainRows:
    """Some rows of a plain table."""

    begins: NDArray[np.int64]
    """Where each row begins in the file [rows]."""
    end: int
    """Where the last one ends."""
    paths: pa.Array
    """Each with the separator or the newline after it [rows]: equal where the paths are."""
    lacking: NDArray[np.bool_]
    """Where there is no path or no caption but white space [rows]."""


@dataclass(frozen=True)
class PlainTable:
    """A table that may be plain.

    Attributes:
        file: where it is.
        keys: columns of paths and of captions.
        separator: one character.
    """

    file: Path
    keys: Sequence[str]
    separator: str

    def rows(self) -> Iterator[PlainRows]:
        """All rows, a block after the other.

        Raises:
            IrregularTable: it is not plain, or not in UTF-8, or a row is longer than ``MAX_ROW``.
        """
        with self.file.open("rb") as table:
            names, begin = self._header(table)
            buffer, mask = bytearray(MAX_ROW + 1), np.empty(MAX_ROW + 8, bool)  # made once: new pages are dear
            table.seek(begin)
            while size := table.readinto(memoryview(buffer)[:MAX_ROW]):
                if size < MAX_ROW and buffer[size - 1] != ord("\n"):  # the last row may do without
                    buffer[size] = ord("\n")
                    size += 1
                size = buffer.rfind(b"\n", 0, size) + 1
                if size == 0 or buffer.find(b'"', 0, size) >= 0:
                    raise IrregularTable
                yield self._block(np.frombuffer(buffer, np.uint8, size), begin, names, mask)
                begin += size
                table.seek(begin)

    def columns(self) -> list[int]:
        """Which columns the keys name.

        Raises:
            IrregularTable: the header is not plain, or does not name each once.
        """
        with self.file.open("rb") as table:
            names, _ = self._header(table)
        return [names.index(key) for key in self.keys]

    def _header(self, table: BinaryIO) -> tuple[list[str], int]:
        """Names of the columns, and where the rows begin."""
        line = table.readline(MAX_ROW)
        try:
            names = line.removeprefix(_BOM).decode().removesuffix("\n").split(self.separator)
        except ValueError as error:
            raise IrregularTable from error
        # With one column a blank line might be a row, which is for pandas to judge.
        if b'"' in line or b"\r" in line or len(names) < 2 or any(names.count(key) != 1 for key in self.keys):
            raise IrregularTable
        if len(self.separator.encode()) != 1 or len(line) == MAX_ROW:
            raise IrregularTable
        return names, len(line)

    def _block(self, block: NDArray[np.uint8], begin: int, names: list[str], mask: NDArray[np.bool_]) -> PlainRows:
        ends, width = self._closings(block, mask), len(names)
        rows = len(ends) // width
        if block[ends].tobytes() != rows * (self.separator * (width - 1) + "\n").encode():
            raise IrregularTable
        bounds = np.zeros(len(ends) + 1, np.int32)
        np.add(ends, 1, out=bounds[1:], casting="same_kind")
        # A field and what closes it are one text, so that the block itself is Arrow's buffer.
        fields = _texts(block, bounds)
        if block.max() > 127:  # else it is ASCII
            try:
                _texts(block, bounds[[0, -1]]).validate(full=True)
            except pa.ArrowInvalid as error:
                raise IrregularTable from error
        starts = bounds[:-1].reshape(rows, width)
        lacking = np.zeros(rows, bool)
        for column in map(names.index, self.keys):
            first = block[starts[:, column]]
            doubtful = first - np.uint8(33) > 93  # nearly every text begins with visible ASCII
            doubtful |= first == ord(self.separator)
            if doubtful.any():
                closed = fields.take(pa.array(np.flatnonzero(doubtful) * width + column))
                doubtful[doubtful] = blank_texts(pc.binary_slice(closed.cast(pa.binary()), 0, -1).cast(pa.string()))
                lacking |= doubtful
        places = np.arange(names.index(self.keys[0]), len(ends), width, dtype=np.int32)
        return PlainRows(starts[:, 0] + np.int64(begin), begin + len(block), fields.take(pa.array(places)), lacking)

    def _closings(self, block: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Where separators, newlines and other control characters are, in room for a mask."""
        mask = mask[: -(-len(block) // 8) * 8]
        mask[len(block) :] = False
        np.less(block, _VISIBLE, out=mask[: len(block)])
        if ord(self.separator) >= _VISIBLE:
            mask[: len(block)] |= block == ord(self.separator)
        # Eight bytes at a time, most of which have none: several times as fast as np.flatnonzero of the bytes.
        words = mask.view("<u8")
        places = np.flatnonzero(words.astype(bool))
        if len(places) != np.count_nonzero(mask):
            return np.flatnonzero(mask)
        within = words[places]
        within *= _BYTE
        within >>= np.uint64(61)
        places *= 8
        places += within.view(np.int64)
        return places


def _texts(content: NDArray[np.uint8], bounds: NDArray[np.int32]) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(content)])
