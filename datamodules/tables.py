"""Rows of a table of pairs (CSV, TSV, JSON Lines, Parquet), a batch after the other, as Arrow's arrays.

Whole columns are checked at once; where one of a batch holds anything but text in UTF-8, that batch goes cell by cell.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from datamodules.csv_columns import IrregularTable, check_columns, csv_columns, encoded
from datamodules.plain_table import PlainTable

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ROWS = 2**16  # of a batch, but for a CSV


@dataclass(frozen=True)
class Rows:
    """Some rows of a table.

    A text is UTF-8, but for lone surrogates: they stand for bytes that are not, and for what JSON escapes. An array of
    type ``string`` has none; one of type ``binary`` may.
    """

    paths: pa.Array
    """[rows], null where there is none."""
    captions: pa.Array
    """[captions], null where a cell of one caption has none."""
    owners: NDArray[np.int64]
    """The row of each caption, in order [captions]."""
    summaries: pa.Array | None
    """[rows], null where there is none; None without a column of them."""


def plain_table(file: Path, keys: Sequence[str], separator: str | None) -> PlainTable:
    """A table that may be plain; the arguments are :func:`read_rows`'s.

    Raises:
        IrregularTable: it is no CSV or TSV, or its summaries are asked for, which are copied.
    """
    usual = _SEPARATORS.get(file.suffix.lower())
    if usual is None or len(keys) > 2:
        raise IrregularTable
    return PlainTable(file, keys, (usual if separator is None else separator).replace("\\t", "\t"))


def read_rows(file: Path, keys: Sequence[str], separator: str | None, *, quick: bool = True) -> Iterator[Rows]:
    """Read a table.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        keys: Columns of paths, of captions, and of summaries if there is one.
        separator: Of a CSV or TSV, where it is not what the file's name says.
        quick: Read a CSV by Arrow.

    Raises:
        IrregularTable: it cannot be read quickly.
        ValueError: the file is damaged or empty, or has no such column, or a cell that is no text.
    """
    batches = read_columns(file, keys, separator, quick=quick)
    first = 1
    for columns in batches:
        yield _rows(f"{file}: row", first, columns)
        first += len(columns[0])


def read_columns(
    file: Path, keys: Sequence[str], separator: str | None, *, quick: bool = False
) -> Iterator[list[pa.Array | list[Any]]]:
    """Some columns of a table, a batch of rows after the other: as Arrow's arrays where that is quick, else as lists.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        keys: Columns.
        separator: Of a CSV or TSV, where it is not what the file's name says.
        quick: Read a CSV by Arrow.

    Raises:
        IrregularTable: it cannot be read quickly.
        ValueError: the file is damaged or empty, or has no such column.
    """
    suffix = file.suffix.lower()
    if suffix not in {*_SEPARATORS, ".jsonl", ".parquet"}:
        raise ValueError(f"{file}: a manifest is .csv, .tsv, .jsonl or .parquet")
    if suffix in _SEPARATORS:
        return csv_columns(file, keys, _SEPARATORS[suffix] if separator is None else separator, quick=quick)
    if separator is not None:
        raise ValueError(f"{file}: separator is for .csv and .tsv, leave it out")
    return _jsonl(file, keys) if suffix == ".jsonl" else _parquet(file, keys)


def _rows(place: str, first: int, columns: Sequence[pa.Array | list[Any]]) -> Rows:
    paths, cells, *others = columns
    if not isinstance(paths, pa.Array):
        paths = encoded(path if isinstance(path, str) else None for path in paths)
    if isinstance(cells, pa.Array) and pa.types.is_list(cells.type):
        captions, owners = cells.flatten(), pyarrow.compute.list_parent_indices(cells).to_numpy()
    elif isinstance(cells, pa.Array):
        captions, owners = cells, np.arange(len(cells))
    else:
        found = [_texts(f"{place} {row}", cell) for row, cell in enumerate(cells, start=first)]
        captions = encoded(text for texts in found for text in texts)
        owners = np.repeat(np.arange(len(found)), [len(texts) for texts in found])
    summaries = others[0] if others else None
    if summaries is not None and not isinstance(summaries, pa.Array):
        summaries = encoded(_summary(f"{place} {row}", cell) for row, cell in enumerate(summaries, start=first))
    return Rows(paths, captions, owners, summaries)


def _texts(place: str, cell: Any) -> list[str]:
    # A missing value is None, or NaN once pandas has held it.
    texts = cell if isinstance(cell, list) else [cell]
    texts = [text for text in texts if text is not None and text == text]  # noqa: PLR0124 (NaN is not itself)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{place}: a caption is a text or a list of texts, found {texts[0]!r:.40}")
    return texts


def _summary(place: str, cell: Any) -> str | None:
    if cell is None or cell != cell:  # noqa: PLR0124
        return None
    if not isinstance(cell, str):
        raise ValueError(f"{place}: a summary is one text, found {cell!r:.40}: leave summary_key out")
    return cell


def _jsonl(file: Path, keys: Sequence[str]) -> Iterator[list[Any]]:
    # Neither pandas.read_json nor pyarrow.json: they accept half-broken lines, and give no line number.
    columns: dict[str, None] = {}
    cells: list[list[Any]] = []  # by row
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig", "surrogateescape"))
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise ValueError(f"{file}: line {number} is no JSON object: write one {{...}} a line")
            columns.update(dict.fromkeys(record))
            cells.append([record.get(key) for key in keys])
            if len(cells) == _ROWS:
                yield [list(column) for column in zip(*cells, strict=True)]
                cells = []
    if not columns and not cells:
        raise ValueError(f"{file} is empty: write one JSON object a line")
    check_columns(file, list(columns), keys)
    if cells:
        yield [list(column) for column in zip(*cells, strict=True)]


def _parquet(file: Path, keys: Sequence[str]) -> Iterator[list[Any]]:
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            check_columns(file, table.schema_arrow.names, keys)
            for batch in table.iter_batches(_ROWS, columns=list(dict.fromkeys(keys))):
                batch.validate(full=True)
                yield [_plain(batch.column(key)) for key in keys]
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: not a Parquet file ({reason}): write it again") from error


def _plain(column: pa.Array) -> pa.Array | list[Any]:
    """Text or lists of text as they are, other cells one by one."""
    if pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    if pa.types.is_string(column.type.value_type if pa.types.is_list(column.type) else column.type):
        return column
    cells: list[Any] = column.to_pylist()
    return cells
