"""Texts of a plain table, read where they lie."""

import os
import weakref
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from datamodules.array_file import ArrayFile
from datamodules.plain_table import MAX_ROW


class TableFile:
    """A plain CSV or TSV of which a row is read at a time.

    Pickled it is what it was made of: another process opens the table for itself.

    Args:
        path: of the table.
        size: its bytes when its rows were found.
        mtime_ns: when it had been changed last by then.
        separator: between its columns.

    Raises:
        ValueError: it is not there.
    """

    def __init__(self, path: str, size: int, mtime_ns: int, separator: str) -> None:
        self._made_of = path, size, mtime_ns, separator
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ValueError(f"cannot read {path} ({error.strerror}): bring the manifest back") from error
        weakref.finalize(self, os.close, self._descriptor)

    @staticmethod
    def facts(path: Path, separator: str) -> tuple[str, int, int, str]:
        """The arguments for a table as it is now."""
        stat = path.stat()
        return str(path.absolute()), stat.st_size, stat.st_mtime_ns, separator

    def row(self, begin: int, end: int) -> list[str]:
        """The cells of the row that begins at a byte, and ends at another or earlier.

        Raises:
            ValueError: the table has changed.
        """
        path, size, mtime_ns, separator = self._made_of
        line = os.pread(self._descriptor, min(end - begin, MAX_ROW), begin)
        stat = os.fstat(self._descriptor)
        if (stat.st_size, stat.st_mtime_ns) != (size, mtime_ns):
            raise ValueError(f"{path} has changed since it was opened: start again")
        return line.partition(b"\n")[0].decode().split(separator)

    def __reduce__(self) -> tuple[type["TableFile"], tuple[str, int, int, str]]:
        return TableFile, self._made_of


@dataclass(frozen=True)
class TableTexts:
    """A column of a plain table, as a list of texts.

    Attributes:
        file: holds where rows begin, and the last one ends, as ``begins`` [rows + 1].
        table: the table.
        column: number of the column.
    """

    file: ArrayFile
    table: TableFile
    column: int

    def __len__(self) -> int:
        return self.file.count("begins") - 1

    def __getitem__(self, index: int) -> str:
        return self.span(index, index + 1)[0]

    def span(self, start: int, stop: int) -> list[str]:
        """Neighbouring texts."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"texts {start} to {stop - 1} of {len(self)}")
        begins = self.file.read("begins", start, stop + 1).tolist()
        return [self.table.row(*bounds)[self.column] for bounds in pairwise(begins)]
