"""A numeric column of a manifest, such as a score that came with the pairs."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_numbers(file: Path, key: str, column: str, separator: str | None = None) -> "pd.Series[float]":
    """The highest number of each key, NaN where no row has a number.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, with a header or field names.
        key: column of the keys.
        column: of the numbers.
        separator: of a CSV or TSV, where it is not what the file's name says.

    Returns:
        Numbers by key.

    Raises:
        ValueError: there is no such column.
    """
    suffix = file.suffix.lower()
    if suffix in _SEPARATORS:
        frame = _read_csv(file, key, column, (separator or _SEPARATORS[suffix]).replace("\\t", "\t"))
    elif suffix == ".parquet":
        _check_column(file, pyarrow.parquet.read_schema(file).names, column)
        frame = pd.read_parquet(file, columns=[key, column])
    else:
        frame = _read_jsonl(file, key, column)
    return pd.to_numeric(frame[column], errors="coerce").groupby(frame[key], sort=False).max().astype(float)


def _read_csv(file: Path, key: str, column: str, separator: str) -> pd.DataFrame:
    options: dict[str, Any] = {"sep": separator, "encoding": "utf-8", "encoding_errors": "surrogateescape"}
    _check_column(file, [str(name) for name in pd.read_csv(file, nrows=0, **options).columns], column)
    options |= {"usecols": [key, column], "dtype": object, "na_filter": False, "index_col": False}
    frame: pd.DataFrame = pd.read_csv(file, **options)
    return frame


def _read_jsonl(file: Path, key: str, column: str) -> pd.DataFrame:
    records = []
    names: set[str] = set()
    with file.open("rb") as lines:
        for line in lines:
            if line.strip():
                record = json.loads(line.decode("utf-8-sig", "surrogateescape"))
                names.update(record)
                if isinstance(path := record.get(key), str):
                    records.append((path, record.get(column)))
    _check_column(file, sorted(names), column)
    return pd.DataFrame(records, columns=[key, column], dtype=object)


def _check_column(file: Path, names: list[str], column: str) -> None:
    if column not in names:
        near = get_close_matches(column, names, n=1)
        mend = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise ValueError(f"{file} has no column {column!r}, only {', '.join(map(repr, names))}: {mend}")
