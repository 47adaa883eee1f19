"""From rows of a table to pairs in a file: rows of one picture are one pair, in the order of their first row."""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.array_file import ArrayFile, ArrayWriter
from datamodules.sources import FaultKind
from datamodules.stored_texts import StoredTexts, store_texts, text_buffers
from datamodules.tables import Rows


class StoredPairs:
    """Pairs in a file, as :func:`store_pairs` has written them.

    Attributes:
        paths: of pictures, each once.
        caption_count: captions of all pairs.
    """

    def __init__(self, file: ArrayFile) -> None:
        self._file = file
        self.paths = StoredTexts(file, "paths")
        self._captions = StoredTexts(file, "captions")
        self._summaries = StoredTexts(file, "summaries")
        self.caption_count = len(self._captions)

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, index: int) -> tuple[int, int]:
        """Where a pair's captions begin and end among those of all pairs."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        if "first" not in self._file:  # each pair has one: two reads instead of three
            return index, index + 1
        first, end = self._file.read("first", index, index + 2).tolist()
        return first, end

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


def store_pairs(batches: Iterable[Rows], writer: ArrayWriter) -> tuple[int, dict[FaultKind, int]]:
    """Group rows by their paths; blank texts, captions that are not UTF-8 and rows left without any are dropped.

    Captions go to the file as they come, so that only paths are held in memory.

    Returns:
        The number of pairs, and of rows that are dropped by kind.
    """
    seen = _Seen()
    store_texts(writer, "captions", seen.captions(_ahead(batches)))
    codes, paths = _coded(pa.chunked_array(seen.paths, pa.large_binary()))
    store_texts(writer, "paths", paths.chunks)
    if sum(int(counts.sum()) for counts in seen.counts) > len(paths):  # else each pair has one caption
        _store_places(codes, seen.counts, len(paths), writer)
    if seen.summarised:
        summary = _first_rows(pa.chunked_array(seen.summarised, pa.large_binary()), paths)
        writer.add("summary", [summary], summary.dtype.str)
        store_texts(writer, "summaries", seen.summaries)
    return len(paths), dict(+seen.faults)


def _store_places(codes: NDArray[Any] | None, counts: list[NDArray[np.int32]], pairs: int, writer: ArrayWriter) -> None:
    """Write where each pair's captions begin, and their order where pairs are not one after the other in the table."""
    if codes is None:
        writer.add_bounds("first", counts)
        return
    owners = np.repeat(codes, np.concatenate(counts))
    writer.add_bounds("first", [np.bincount(owners, minlength=pairs)])
    if (owners[1:] < owners[:-1]).any():
        order = np.argsort(owners, kind="stable")
        writer.add("order", [order], order.dtype.str)


def _ahead(batches: Iterable[Rows]) -> Iterator[Rows]:
    """The same, each read while the one before is worked on."""
    with ThreadPoolExecutor(1) as reader:
        batches = iter(batches)
        coming = reader.submit(next, batches, None)
        while (rows := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield rows


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
                told = ~_blank(rows.summaries) & ~_undecoded(rows.summaries)
                self.summarised.append(_chosen(rows.paths, told).cast(pa.binary()).cast(pa.large_binary()))
                self.summaries.append(_chosen(rows.summaries, told))
            yield _chosen(rows.captions, good)

    def _usable(self, rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows are kept [rows], and which captions [captions]; the other rows are counted."""
        undecoded = _undecoded(rows.captions)
        good = ~_blank(rows.captions) & ~undecoded
        named = ~_blank(rows.paths)
        kept = named & (np.bincount(rows.owners[good], minlength=len(named)) > 0)
        bad = named & ~kept
        bad[bad] = np.isin(np.flatnonzero(bad), rows.owners[undecoded])
        self.faults["bad_text"] += int(bad.sum())
        self.faults["missing_part"] += int((~kept & ~bad).sum())
        return kept, good & kept[rows.owners]


def _chosen(texts: pa.Array, mask: NDArray[np.bool_]) -> pa.Array:
    return texts if mask.all() else texts.filter(pa.array(mask))


def _blank(texts: pa.Array) -> NDArray[np.bool_]:
    """Where there is no text, or one of white space."""
    if pa.types.is_binary(texts.type):
        decoded = (None if text is None else text.decode("utf-8", "surrogatepass") for text in texts.to_pylist())
        return np.array([text is None or not text.strip() for text in decoded], bool)
    content, bounds = text_buffers(texts)
    doubtful: NDArray[np.bool_] = np.diff(bounds) == 0
    doubtful[~doubtful] = content[bounds[:-1][~doubtful]] - np.uint8(33) > 93  # what does not begin with visible ASCII
    if doubtful.any():
        some = texts.filter(pa.array(doubtful))
        blank = pc.or_(pc.utf8_is_space(some), pc.equal(pc.binary_length(some), 0))
        doubtful[doubtful] = np.asarray(blank.fill_null(True))
    return doubtful


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
