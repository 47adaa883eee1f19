"""From rows of a table to pairs: rows of one picture are one pair, in the order of their first row."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.sources import FaultKind
from datamodules.stored_texts import stored_arrays
from datamodules.tables import Rows


@dataclass(frozen=True)
class Pairs:
    """Pairs of a table. Texts are Arrow's chunked arrays of type ``large_binary``, in UTF-8."""

    paths: pa.ChunkedArray
    """[pairs], each once."""
    captions: pa.ChunkedArray
    """Of one pair after the other [captions]."""
    first: NDArray[np.int64]
    """The captions of pair i are ``first[i]`` to ``first[i + 1]`` [pairs + 1]."""
    summaries: pa.ChunkedArray | None
    """[pairs], a caption where there is none."""
    faults: Counter[FaultKind]
    """Rows that are left out."""

    def arrays(self) -> dict[str, list[NDArray[Any]]]:
        """What a file holds of them: the texts by their names, and ``first``."""
        texts = {"paths": self.paths, "captions": self.captions, "summaries": self.summaries}
        arrays: dict[str, list[NDArray[Any]]] = {"first": [self.first]}
        for name, column in texts.items():
            if column is not None:
                arrays |= stored_arrays(name, *_packed(column))
        return arrays


def group(batches: Iterable[Rows]) -> Pairs:
    """Group rows by their paths; blank texts, captions that are not UTF-8 and rows left without any are dropped."""
    paths, captions, counts = [], [], []
    summaries: list[tuple[pa.Array, pa.Array]] = []
    faults: Counter[FaultKind] = Counter()
    for rows in batches:
        kept, good = _usable(rows, faults)
        paths.append(_bytes(rows.paths.filter(pa.array(kept))))
        captions.append(_bytes(rows.captions.filter(pa.array(good))))
        counts.append(np.bincount(rows.owners[good], minlength=len(kept))[kept])
        if rows.summaries is not None:
            told = pa.array(~_blank(rows.summaries) & ~_undecoded(rows.summaries))
            summaries.append((_bytes(rows.paths.filter(told)), _bytes(rows.summaries.filter(told))))
    coded = pa.chunked_array(paths, pa.large_binary()).dictionary_encode()
    codes = np.concatenate([np.empty(0, np.int64), *(chunk.indices.to_numpy() for chunk in coded.chunks)])
    found = coded.chunk(0).dictionary if coded.num_chunks else pa.array([], pa.large_binary())
    owners = np.repeat(codes, np.concatenate([np.empty(0, np.int64), *counts]))
    texts = pa.chunked_array(captions, pa.large_binary())
    if (np.diff(owners) < 0).any():
        texts = texts.combine_chunks().take(pa.array(np.argsort(owners, kind="stable")))
    texts = pa.chunked_array([texts]) if isinstance(texts, pa.Array) else texts
    first = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(found)))])
    written = _summaries(found, texts, first, summaries) if summaries else None
    return Pairs(pa.chunked_array([found]), texts, first, written, +faults)


def _usable(rows: Rows, faults: Counter[FaultKind]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are kept [rows], and which captions [captions]; the other rows are counted."""
    undecoded = _undecoded(rows.captions)
    good = ~_blank(rows.captions) & ~undecoded
    number = len(rows.paths)
    named = ~_blank(rows.paths)
    kept = named & (np.bincount(rows.owners[good], minlength=number) > 0)
    bad = named & ~kept & (np.bincount(rows.owners[undecoded], minlength=number) > 0)
    faults["bad_text"] += int(bad.sum())
    faults["missing_part"] += int((~kept & ~bad).sum())
    return kept, good & kept[rows.owners]


def _blank(texts: pa.Array) -> NDArray[np.bool_]:
    """Where there is no text, or one of white space."""
    if pa.types.is_binary(texts.type):
        decoded = (None if text is None else text.decode("utf-8", "surrogatepass") for text in texts.to_pylist())
        return np.array([text is None or not text.strip() for text in decoded], bool)
    blank = pc.or_(pc.utf8_is_space(texts), pc.equal(pc.binary_length(texts), 0))
    return np.asarray(blank.fill_null(True))


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


def _summaries(
    paths: pa.Array, captions: pa.ChunkedArray, first: NDArray[np.int64], summaries: list[tuple[pa.Array, pa.Array]]
) -> pa.ChunkedArray:
    """The first summary of each path, or else its first caption."""
    of, texts = (pa.chunked_array(column, pa.large_binary()) for column in zip(*summaries, strict=True))
    pairs = pc.index_in(of, value_set=paths).combine_chunks()
    rows = np.flatnonzero(pairs.is_valid())
    owners, places = np.unique(np.asarray(pairs.take(pa.array(rows))), return_index=True)
    row_of = np.full(len(paths), -1)
    row_of[owners] = rows[places]
    own = texts.take(pa.array(row_of, mask=row_of < 0))
    return pc.coalesce(own, captions.take(pa.array(first[:-1])))


def _bytes(texts: pa.Array) -> pa.Array:
    """Texts whose offsets are wide enough for those of a whole corpus."""
    return texts.cast(pa.binary()).cast(pa.large_binary())


def _packed(texts: pa.ChunkedArray) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    """The bytes of texts, in parts, and where each begins."""
    data, bounds, end = [np.empty(0, np.uint8)], [np.zeros(1, np.int64)], 0
    for chunk in texts.chunks:
        _, offsets, content = chunk.buffers()
        if len(chunk) == 0:
            continue
        begins = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        data.append(np.frombuffer(content, np.uint8)[begins[0] : begins[-1]])
        bounds.append(begins[1:] - begins[0] + end)
        end = int(bounds[-1][-1])
    return data, np.concatenate(bounds)
