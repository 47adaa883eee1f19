"""Columns of a CSV or TSV: by Arrow, a block after the other; or by pandas, which is the judge of what is irregular."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.csv

_BLOCK = 2**20  # bytes at a time: what fits the processor's cache
_END = b"\x1eend\x1e"


class IrregularTable(Exception):  # noqa: N818 - no error, but a reason to read it otherwise
    """A CSV that only pandas reads, or says what is wrong with."""


def csv_columns(file: Path, keys: Sequence[str], separator: str, *, quick: bool) -> Iterator[list[Any]]:
    """Some columns of a table, in UTF-8 as an array of type ``string``, else as of :func:`encoded` or as a list.

    Args:
        file: the table.
        keys: names of the columns.
        separator: one character.
        quick: read it by Arrow.

    Raises:
        IrregularTable: Arrow does not read it, or not as pandas does.
        ValueError: the file is damaged or empty, or has no such column.
    """
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
        return encoded(text.decode("utf-8", "surrogateescape") for text in column.to_pylist())


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
    check_columns(file, [str(column) for column in frame.columns], keys)
    return frame


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


def encoded(texts: Iterable[str | None]) -> pa.Array:
    """Texts as bytes, lone surrogates too."""
    return pa.array((None if text is None else text.encode("utf-8", "surrogatepass") for text in texts), pa.binary())


def check_columns(file: Path, columns: list[str], keys: Sequence[str]) -> None:
    """Raise ValueError where a table has no column of a name."""
    for key in keys:
        if key not in columns:
            near = get_close_matches(key, columns, n=1)
            mend = f"did you mean {near[0]!r}?" if near else "set image_key and caption_key (or label_key)"
            hint = " (one column only: is the separator right?)" if len(columns) == 1 else ""
            raise ValueError(f"{file} has no column {key!r}, only {', '.join(map(repr, columns))}{hint}: {mend}")
