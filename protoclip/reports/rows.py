"""``rows.jsonl``: one JSON object per evaluated task, appended line by line."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast


class Row(TypedDict):
    """What one evaluated task of one run gave, and what it takes to know how it came about."""

    run: str
    """Hash of the run's resolved config."""
    name: str
    git: str
    model: str
    method: str
    seed: int
    data: dict[str, str]
    """``name`` and ``fingerprint`` of the training data."""
    task: str
    """Such as ``scenes_zero_shot``."""
    metrics: dict[str, float | None]
    """None where a metric is not defined."""
    counts: dict[str, int]
    """Samples, classes, captions that were evaluated."""
    prompts: str | None
    """Hash of the zero-shot prompts; None where the task has none."""
    cost: dict[str, float]
    time: str
    """ISO 8601."""
    sets: NotRequired[dict[str, str]]
    """Fingerprint of each picture set that the task looks at; rows of earlier versions have none."""
    arm: NotRequired[str]
    """Line of a comparison table, given by the sweep that the run belongs to."""


def append_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Append rows to a file, making it and its folder where they are missing.

    Every row is one write of one line, so writers that share a file do not mix lines. Metrics that are NaN or infinite
    are written as null, which JSON needs.

    Raises:
        ValueError: If a row lacks a field, or holds what JSON cannot; nothing is written then.
    """
    path = Path(path)
    lines = [_line(row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")  # a writer was killed inside its line: let only that line be lost
        for line in lines:
            file.write(line.encode())


def read_rows(*paths: str | os.PathLike[str]) -> list[Row]:
    """Read the rows of one or more files, in order.

    Raises:
        ValueError: If a line is no complete row; the message names file and line.
        FileNotFoundError: If a file does not exist.
    """
    return [
        _parse(line, f"{path}:{number}")
        for path in paths
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1)
    ]


def _line(row: Row) -> str:
    _check(row, f"row {row.get('name')!r}")
    metrics = {key: value if _finite(value) else None for key, value in row["metrics"].items()}
    try:
        return json.dumps({**row, "metrics": metrics}, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"row {row['name']!r}, task {row['task']!r}: {error}; rows hold plain numbers and text"
        ) from error


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _parse(line: str, place: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not a JSON object ({error.msg}); delete the line to go on") from error
    _check(row, place)
    return cast(Row, row)


def _check(row: Any, place: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object but {type(row).__name__}; delete the line to go on")
    if missing := sorted(Row.__required_keys__ - row.keys()):
        raise ValueError(f"{place}: the row lacks {', '.join(missing)}")
    metrics = row["metrics"]
    if not isinstance(metrics, dict) or not all(value is None or _number(value) for value in metrics.values()):
        raise ValueError(f"{place}: metrics must map names to numbers or null")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
