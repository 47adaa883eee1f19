"""``metrics.csv``: the figures of a run, a function of its training alone.

Every row is on the disk when ``log_metrics`` returns. A run that goes on drops what its predecessor logged after the
checkpoint, so the file equals that of a run that was never interrupted, byte for byte.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger

from protoclip.files import replacing

FIRST = ("epoch", "step")


class MetricsCSV(Logger):
    """One row per call, in the columns ``epoch``, ``step`` and the others sorted.

    Args:
        folder: run directory.
        exclude: beginnings of the names that stay out, such as those of times.
    """

    def __init__(self, folder: str | os.PathLike[str], exclude: Sequence[str] = ()) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.exclude = tuple(exclude)
        self._columns: list[str] = []
        self._first = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row.

        The first row of a process takes the place of all rows from its step on.
        """
        assert step is not None
        row = {name: value for name, value in metrics.items() if not name.startswith(self.exclude)}
        if not row.keys() - {"epoch"}:
            return
        row["step"] = step
        if self._first or row.keys() - set(self._columns):
            self._rewrite(row)
        with self.path.open("ab") as file:
            file.write(_text([row], self._columns).encode())
            file.flush()
            os.fsync(file.fileno())
        self._first = False

    def _rewrite(self, row: Mapping[str, float]) -> None:
        """Make room for a row: drop the rows that it replaces, and add its columns."""
        columns, rows = _read(self.path)
        if self._first:
            rows = [old for old in rows if int(old["step"]) < row["step"]]
        self._columns = [*FIRST, *sorted({*columns, *row} - set(FIRST))]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            header = {name: name for name in self._columns}
            file.write(_text([header, *rows], self._columns).encode())

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in ``config.yaml``."""

    @property
    def name(self) -> str:
        """None: the run directory has the name."""
        return ""

    @property
    def version(self) -> str:
        """None: a run has one file."""
        return ""


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows; a last line without an end was torn and does not count."""
    if not path.exists():
        return [], []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    reader = csv.DictReader(io.StringIO(whole))
    rows = list(reader)
    return list(reader.fieldnames or ()), rows


def _text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
