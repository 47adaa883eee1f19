"""Rows of a table of pairs (CSV, TSV, JSON Lines, Parquet), a batch after the other, as Arrow's arrays.

Whole columns are checked at once. Where one of a batch holds anything but text in UTF-8, that batch goes cell by cell;
and a CSV that Arrow refuses is read by pandas, which pads short rows and says what is wrong with the others.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_BLOCK = 2**20  # bytes of a CSV at a time: what fits the processor's cache
_ROWS = 2**16  # of a batch of the other formats
_END = b"\x1eend\x1e"


class IrregularTable(Exception):  # noqa: N818 - no error, but a reason to read it otherwise
    """A CSV that only pandas reads, or says what is wrong with."""


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
    suffix = file.suffix.lower()
    if suffix not in {*_SEPARATORS, ".jsonl", ".parquet"}:
        raise ValueError(f"{file}: a manifest is .csv, .tsv, .jsonl or .parquet")
    if suffix in _SEPARATORS:
        batches = _csv(file, keys, _SEPARATORS[suffix] if separator is None else separator, quick=quick)
    elif separator is not None:
        raise ValueError(f"{file}: separator is for .csv and .tsv, leave it out")
    else:
        batches = _jsonl(file, keys) if suffix == ".jsonl" else _parquet(file, keys)
    first = 1
    for columns in batches:
        yield _rows(f"{file}: row", first, columns)
        first += len(columns[0])


def _rows(place: str, first: int, columns: Sequence[pa.Array | list[Any]]) -> Rows:
    paths, cells, *others = columns
    if not isinstance(paths, pa.Array):
        paths = _encoded(path if isinstance(path, str) else None for path in paths)
    if isinstance(cells, pa.Array) and pa.types.is_list(cells.type):
        captions, owners = cells.flatten(), pyarrow.compute.list_parent_indices(cells).to_numpy()
    elif isinstance(cells, pa.Array):
        captions, owners = cells, np.arange(len(cells))
    else:
        found = [_texts(f"{place} {row}", cell) for row, cell in enumerate(cells, start=first)]
        captions = _encoded(text for texts in found for text in texts)
        owners = np.repeat(np.arange(len(found)), [len(texts) for texts in found])
    summaries = others[0] if others else None
    if summaries is not None and not isinstance(summaries, pa.Array):
        summaries = _encoded(_summary(f"{place} {row}", cell) for row, cell in enumerate(summaries, start=first))
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


def _encoded(texts: Iterator[str | None]) -> pa.Array:
    return pa.array((None if text is None else text.encode("utf-8", "surrogatepass") for text in texts), pa.binary())


class _Ended:
    """A file that ends with a row of ends: one that a quote without its partner has swallowed is not found again."""

    def __init__(self, file: BinaryIO, row: bytes) -> None:
        self._file, self._row = file, row

    closed = False

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if not data:
            data, self._row = self._row, b""
        return data

    def close(self) -> None:
        self._file.close()


def _csv(file: Path, keys: Sequence[str], separator: str, *, quick: bool) -> Iterator[list[Any]]:
    separator = separator.replace("\\t", "\t")  # as a shell or an unquoted YAML scalar gives it
    if len(separator) != 1:
        raise ValueError(f"separator={separator!r}: give one character, such as a tab")
    if quick:
        try:
            yield from _quick_csv(file, keys, separator)
        except (pa.ArrowException, ValueError) as error:  # also of a separator or a header that is no text to it
            raise IrregularTable from error
    else:
        frame = _slow_csv(file, keys, separator)
        yield [frame[key].tolist() for key in keys]


def _quick_csv(file: Path, keys: Sequence[str], separator: str) -> Iterator[list[pa.Array]]:
    parse = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK, use_threads=False)
    with file.open("rb") as table, pyarrow.csv.open_csv(table, read, parse) as opened:
        names = opened.schema.names
    if any(names.count(key) != 1 for key in keys):  # pandas names the second one otherwise, or tells which there are
        raise IrregularTable
    selected = list(dict.fromkeys(keys))
    convert = pyarrow.csv.ConvertOptions(
        check_utf8=False, include_columns=selected, column_types=dict.fromkeys(selected, pa.binary())
    )
    row = b"\n" + separator.encode().join([_END] * len(names)) + b"\n"
    with file.open("rb") as table:
        ended = pa.PythonFile(_Ended(table, row), mode="r")
        with pyarrow.csv.open_csv(ended, read, parse, convert) as opened:
            columns: list[pa.Array] = []
            for batch in opened:
                if columns:
                    yield [_checked(column) for column in columns]
                columns = [batch.column(key) for key in keys]
    if any(len(column) == 0 or column[-1].as_py() != _END for column in columns):
        raise IrregularTable
    yield [_checked(column[:-1]) for column in columns]


def _checked(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # paths may be any bytes, and one bad caption is one row
        return _encoded(text.decode("utf-8", "surrogateescape") for text in column.to_pylist())


def _slow_csv(file: Path, keys: Sequence[str], separator: str) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # Rows longer than the header are captions with a bare separator: pandas would shift or cut them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                file,
                sep=separator,
                dtype=object,
                na_filter=False,
                index_col=False,
                encoding="utf-8",
                encoding_errors="surrogateescape",
            )
    except pd.errors.EmptyDataError:
        raise ValueError(f"{file} is empty: it needs a header and rows") from None
    except UnicodeEncodeError:  # pandas cannot hold such a header
        raise ValueError(f"{file}: not a table in UTF-8: convert it, or use Parquet") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: not a table ({reason}): quote captions, or use JSON Lines") from error
    _check_columns(file, [str(column) for column in frame.columns], keys)
    return frame


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
    _check_columns(file, list(columns), keys)
    if cells:
        yield [list(column) for column in zip(*cells, strict=True)]


def _parquet(file: Path, keys: Sequence[str]) -> Iterator[list[Any]]:
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            _check_columns(file, table.schema_arrow.names, keys)
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


def _check_columns(file: Path, columns: list[str], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in columns:
            near = get_close_matches(key, columns, n=1)
            mend = f"did you mean {near[0]!r}?" if near else "set image_key and caption_key"
            hint = " (one column only: is the separator right?)" if len(columns) == 1 else ""
            raise ValueError(f"{file} has no column {key!r}, only {', '.join(map(repr, columns))}{hint}: {mend}")
