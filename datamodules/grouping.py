"""From rows of a table to pairs in a file: rows of one picture are one pair, in the order of their first row."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.ahead import ahead
from datamodules.array_file import ArrayFile, ArrayWriter
from datamodules.plain_table import PlainRows, PlainTable
from datamodules.sources import FaultKind
from datamodules.stored_texts import StoredTexts, blank_texts, store_texts
from datamodules.table_texts import TableFile, TableTexts
from datamodules.tables import Rows


class StoredPairs:
    """Pairs in a file, as :func:`store_pairs` or :func:`store_plain_pairs` has written them.

    Attributes:
        caption_count: captions of all pairs.
    """

    def __init__(self, file: ArrayFile) -> None:
        self._file = file
        self._paths: StoredTexts | TableTexts
        self._captions: StoredTexts | TableTexts
        self._plain = "table" in file.facts
        if self._plain:
            table = TableFile(*file.facts["table"])
            self._paths, self._captions = (TableTexts(file, table, column) for column in file.facts["columns"])
        else:
            self._paths, self._captions = StoredTexts(file, "paths"), StoredTexts(file, "captions")
        self._summaries = StoredTexts(file, "summaries")
        self.caption_count = len(self._captions)

    def __len__(self) -> int:
        return self._file.count("first") - 1 if "first" in self._file else self.caption_count

    def first(self, index: int) -> tuple[int, int]:
        """Where a pair's captions begin and end among those of all pairs."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        if "first" not in self._file:  # each pair has one: two reads instead of three
            return index, index + 1
        first, end = self._file.read("first", index, index + 2).tolist()
        return first, end

    def path(self, index: int) -> str:
        """The path of a pair's picture."""
        if not self._plain:
            return self._paths[index]
        first, _ = self.first(index)
        return self._paths[int(self._file.read("order", first, first + 1)[0]) if "order" in self._file else first]

    def captions(self, index: int) -> list[str]:
        """All captions of a pair, in the order of the rows."""
        first, end = self.first(index)
        if "order" not in self._file:
            return self._captions.span(first, end)
        return [self._captions[row] for row in self._file.read("order", first, end).tolist()]

    def summary(self, index: int) -> str:
        """The first summary of a pair, or else its first caption."""
        row = int(self._file.read("summary", index, index + 1)[0])
        return self.captions(index)[0] if row < 0 else self._summaries[row]


def store_plain_pairs(table: PlainTable, writer: ArrayWriter) -> tuple[int, dict[FaultKind, int]]:
    """The same as :func:`store_pairs` of a plain table, of which only where its rows begin is written.

    Raises:
        IrregularTable: it is not plain.
    """
    facts = TableFile.facts(table.file, table.separator)
    writer.facts |= {"table": facts, "columns": table.columns()}
    dtype = np.min_scalar_type(facts[1] + 1)
    seen = _SeenPlain()
    writer.add("begins", (begins.astype(dtype) for begins in seen.begins(ahead(table.rows()))), dtype.str)
    number = seen.number
    if not seen.rising:  # read once more, since paths that rise need not be held in memory
        paths = [_chosen(rows.paths, ~rows.lacking).cast(pa.large_string()) for rows in table.rows()]
        codes, known = _coded(pa.chunked_array(paths, pa.large_string()))
        assert codes is not None
        if len(known) < number:
            number = len(known)
            _store_places(codes, number, writer)
    return number, {"missing_part": seen.left_out} if seen.left_out else {}


def store_pairs(batches: Iterable[Rows], writer: ArrayWriter) -> tuple[int, dict[FaultKind, int]]:
    """Group rows by their paths; blank texts, captions that are not UTF-8 and rows left without any are dropped.

    Captions go to the file as they come, so that only paths are held in memory.

    Returns:
        The number of pairs, and of rows that are dropped by kind.
    """
    seen = _Seen()
    store_texts(writer, "captions", seen.captions(ahead(batches)))
    codes, paths = _coded(pa.chunked_array(seen.paths, pa.large_binary()))
    store_texts(writer, "paths", paths.chunks)
    if sum(int(counts.sum()) for counts in seen.counts) > len(paths):  # else each pair has one caption
        counts = np.concatenate(seen.counts)
        if codes is None:
            writer.add_bounds("first", [counts])
        else:
            _store_places(np.repeat(codes, counts), len(paths), writer)
    if seen.summarised:
        summary = _first_rows(pa.chunked_array(seen.summarised, pa.large_binary()), paths)
        writer.add("summary", [summary], summary.dtype.str)
        store_texts(writer, "summaries", seen.summaries)
    return len(paths), dict(+seen.faults)


def _store_places(owners: NDArray[Any], pairs: int, writer: ArrayWriter) -> None:
    """Write where each pair's captions begin, and their order where pairs are not one after the other in the table."""
    writer.add_bounds("first", [np.bincount(owners, minlength=pairs)])
    if (owners[1:] < owners[:-1]).any():
        order = np.argsort(owners, kind="stable")
        writer.add("order", [order], order.dtype.str)


@dataclass
class _Seen:
    """What is kept of rows beside their captions."""

    paths: list[pa.Array] = field(default_factory=list)
    counts: list[NDArray[np.int32]] = field(default_factory=list)
    """Captions of each path."""
    summarised: list[pa.Array] = field(default_factory=list)
    """The path of each summary."""
    summaries: list[pa.Array] = field(default_factory=list)
    faults: Counter[FaultKind] = field(default_factory=Counter)

    def captions(self, batches: Iterable[Rows]) -> Iterator[pa.Array]:
        """The captions that are kept."""
        for rows in batches:
            kept, good = self._usable(rows)
            self.paths.append(_chosen(rows.paths, kept).cast(pa.binary()).cast(pa.large_binary()))
            self.counts.append(np.bincount(rows.owners[good], minlength=len(kept))[kept].astype(np.int32))
            if rows.summaries is not None:
                told = ~blank_texts(rows.summaries) & ~_undecoded(rows.summaries)
                self.summarised.append(_chosen(rows.paths, told).cast(pa.binary()).cast(pa.large_binary()))
                self.summaries.append(_chosen(rows.summaries, told))
            yield _chosen(rows.captions, good)

    def _usable(self, rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows are kept [rows], and which captions [captions]; the other rows are counted."""
        undecoded = _undecoded(rows.captions)
        good = ~blank_texts(rows.captions) & ~undecoded
        named = ~blank_texts(rows.paths)
        kept = named & (np.bincount(rows.owners[good], minlength=len(named)) > 0)
        bad = named & ~kept
        bad[bad] = np.isin(np.flatnonzero(bad), rows.owners[undecoded])
        self.faults["bad_text"] += int(bad.sum())
        self.faults["missing_part"] += int((~kept & ~bad).sum())
        return kept, good & kept[rows.owners]


@dataclass
class _SeenPlain:
    """What is kept of rows of a plain table beside where they begin."""

    number: int = 0
    left_out: int = 0
    rising: bool = True
    """Whether each path is above the one before."""
    _last: str = ""

    def begins(self, batches: Iterable[PlainRows]) -> Iterator[NDArray[np.int64]]:
        """Where each row that is kept begins, and where the last of all ends."""
        end = 0
        for rows in batches:
            kept = ~rows.lacking
            begins, paths, end = rows.begins[kept], _chosen(rows.paths, kept), rows.end
            self.number += len(begins)
            self.left_out += len(kept) - len(begins)
            if self.rising and len(paths):
                rising = pc.all(pc.less(paths[:-1], paths[1:]), min_count=0).as_py()
                self.rising = rising and self._last < paths[0].as_py()
                self._last = paths[-1].as_py()
            yield begins
        yield np.array([end])


def _chosen(texts: pa.Array, mask: NDArray[np.bool_]) -> pa.Array:
    return texts if mask.all() else texts.filter(pa.array(mask))


def _undecoded(texts: pa.Array) -> NDArray[np.bool_]:
    """Where a text holds lone surrogates, which stand for what is not UTF-8."""
    if not pa.types.is_binary(texts.type):
        return np.zeros(len(texts), bool)
    return np.array([text is not None and not _is_utf8(text) for text in texts.to_pylist()], bool)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _coded(paths: pa.ChunkedArray) -> tuple[NDArray[Any] | None, pa.ChunkedArray]:
    """The number of each path by first appearance, None where no path comes twice; and the paths by number."""
    if pc.all(pc.less(paths[:-1], paths[1:]), min_count=0).as_py():  # as img2dataset writes them: no hashing is needed
        return None, paths
    coded = paths.dictionary_encode()
    found = coded.chunk(0).dictionary
    return np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks]), pa.chunked_array([found])


def _first_rows(paths: pa.ChunkedArray, known: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each known path appears first, -1 where it does not [known]."""
    numbers = pc.index_in(paths, value_set=known.combine_chunks()).combine_chunks()
    rows = np.flatnonzero(numbers.is_valid())
    owners, places = np.unique(np.asarray(numbers.take(pa.array(rows))), return_index=True)
    first = np.full(len(known), -1)
    first[owners] = rows[places]
    return first
