"""Comparison tables: mean and standard error over seeds, the best marked, differences to the first line.

table = comparison_table(read_rows(*paths), ["scenes_zero_shot/top1", "scenes_clustering/ari"])
print(to_markdown(table))
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.table
from rich.console import Console
from rich.markup import escape

from protoclip.reports.rows import Row

UNIT_SCALE = frozenset(
    {"ari", "ami", "nmi", "purity", "silhouette", "davies_bouldin", "modality_gap", "self_similarity", "feature_std"}
)
"""Metrics that are not in percent: printed with three decimals instead of two."""
LOWER_IS_BETTER = frozenset({"davies_bouldin"})
NO_BEST = frozenset(
    {"modality_gap", "self_similarity", "feature_std", "used_clusters", "C"}
    | {"episodes", "steps", "pairs", "seconds", "relative_epoch"}
)
"""Metrics that describe a model without ranking it."""

GroupKey = tuple[str, ...]
Samples = dict[Any, float]
"""Seed to value."""


@dataclass(frozen=True)
class Cell:
    """One group's values of one column."""

    mean: float
    error: float | None
    """Standard error of the mean over seeds; None for a single seed."""
    count: int
    """Seeds."""
    difference: float | None
    """To the first line's mean; None on the first line, or where that has no value."""
    difference_error: float | None
    """Standard error of the paired differences; None unless both lines have the same two or more seeds."""
    best: bool


@dataclass(frozen=True)
class Line:
    """One group of runs; a cell is None where the group has no value."""

    key: GroupKey
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Table:
    """A comparison: ``group_by`` names the keys, ``columns`` the cells."""

    group_by: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def comparison_table(rows: Sequence[Row], columns: Sequence[str], *, group_by: Sequence[str] = ("arm",)) -> Table:
    """Compare groups of runs.

    Groups keep the order of the rows, so the first row's group is what the others are compared with. Where a run was
    evaluated more than once on a task, its last row counts.

    Args:
        rows: See ``read_rows``.
        columns: ``task/metric``, such as ``scenes_zero_shot/top1``.
        group_by: Fields of the rows; ``data.name`` reaches into a field.

    Raises:
        ValueError: If there are no rows, a field or column does not exist, or a group has two runs of the same seed.
    """
    if not rows:
        raise ValueError("no rows to compare: evaluate a run first")
    groups: dict[GroupKey, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_field(row, name) for name in group_by), []).append(row)
    samples = {key: [_samples(key, members, column) for column in columns] for key, members in groups.items()}
    for index, column in enumerate(columns):
        if not any(values[index] for values in samples.values()):
            known = sorted({f"{row['task']}/{metric}" for row in rows for metric in row["metrics"]})
            raise ValueError(f"no row has a value of {column!r}; there are {', '.join(known)}")
    best = [_best(column, [values[index] for values in samples.values()]) for index, column in enumerate(columns)]
    reference = next(iter(samples))
    lines = [
        Line(
            key,
            tuple(
                _cell(value, first if key != reference else {}, column, top)
                for column, value, first, top in zip(columns, values, samples[reference], best, strict=True)
            ),
        )
        for key, values in samples.items()
    ]
    return Table(tuple(group_by), tuple(columns), tuple(lines))


def _field(row: Row, name: str) -> str:
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"row of run {row['run']} has no field {name!r}: choose another group_by, such as method")
        value = value[part]
    return str(value)


def _samples(key: GroupKey, members: Sequence[Row], column: str) -> Samples:
    """Seed to value of one group in one column."""
    task, _, metric = column.rpartition("/")
    last = {row["run"]: row for row in members if row["task"] == task}
    samples: Samples = {}
    for run, row in last.items():
        if (value := row["metrics"].get(metric)) is None:
            continue
        if row["seed"] in samples:
            raise ValueError(
                f"{' '.join(key)} has two runs of seed {row['seed']} for {task}, one is {run}: group by more fields"
            )
        samples[row["seed"]] = value
    return samples


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _best(column: str, cells: Sequence[Samples]) -> float | None:
    """The best mean as printed, so that what looks equal is marked equally."""
    metric = column.rpartition("/")[2]
    means = [round(statistics.fmean(cell.values()), decimals(column)) for cell in cells if cell]
    if metric in NO_BEST or len(means) < 2:
        return None
    return min(means) if metric in LOWER_IS_BETTER else max(means)


def _cell(samples: Samples, reference: Samples, column: str, best: float | None) -> Cell | None:
    if not samples:
        return None
    mean = statistics.fmean(samples.values())
    paired = [value - reference[seed] for seed, value in samples.items()] if samples.keys() == reference.keys() else []
    return Cell(
        mean=mean,
        error=_standard_error(list(samples.values())),
        count=len(samples),
        difference=mean - statistics.fmean(reference.values()) if reference else None,
        difference_error=_standard_error(paired),
        best=best is not None and round(mean, decimals(column)) == best,
    )


def decimals(column: str) -> int:
    """Printed decimals of a column: two for percentages, three for scores of about 1."""
    return 3 if column.rpartition("/")[2] in UNIT_SCALE else 2


def _texts(table: Table, bold: str) -> list[list[str]]:
    """Printed cells, line by line: ``21.47 ± 0.33 (+2.01 ± 0.40)``, then the number of seeds."""
    return [
        [
            *line.key,
            *(_text(cell, decimals(column), bold) for cell, column in zip(line.cells, table.columns, strict=True)),
            str(max((cell.count for cell in line.cells if cell), default=0)),
        ]
        for line in table.lines
    ]


def _text(cell: Cell | None, digits: int, bold: str) -> str:
    if cell is None:
        return "-"
    text = f"{cell.mean:z.{digits}f}" + ("" if cell.error is None else f" ± {cell.error:.{digits}f}")
    text = bold.format(text) if cell.best else text
    if cell.difference is None:
        return text
    error = "" if cell.difference_error is None else f" ± {cell.difference_error:.{digits}f}"
    return f"{text} ({cell.difference:+z.{digits}f}{error})"


def _header(table: Table) -> list[str]:
    return [*table.group_by, *table.columns, "seeds"]


def to_markdown(table: Table, titles: Mapping[str, str] | None = None) -> str:
    """Render as a Markdown table, the best of each column in bold; ``titles`` are printed instead of the columns."""
    header = [(titles or {}).get(name, name) for name in _header(table)]
    keys = len(table.group_by)
    rule = ["---"] * keys + ["---:"] * (len(header) - keys)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *_texts(table, "**{}**"))]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def to_csv(table: Table) -> str:
    """Render as CSV with a column each for mean, standard error, seeds and difference, to six digits."""
    parts = ("mean", "error", "count", "difference", "difference_error")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*table.group_by, *(f"{column}:{part}" for column in table.columns for part in parts)])
    for line in table.lines:
        values = [None if cell is None else getattr(cell, part) for cell in line.cells for part in parts]
        writer.writerow([*line.key, *("" if value is None else f"{value:.6g}" for value in values)])
    return buffer.getvalue()


def print_table(table: Table, console: Console) -> None:
    """Print to a rich console, a group a column so that a screen holds many metrics, the best of each in bold."""
    view = rich.table.Table()
    view.add_column("/".join(table.group_by))
    for line in table.lines:
        view.add_column(escape(" ".join(line.key)), justify="right")
    groups = [cells[len(table.group_by) :] for cells in _texts(table, "[bold]{}[/bold]")]
    for name, *values in zip((*table.columns, "seeds"), *groups, strict=True):
        view.add_row(escape(name), *values)
    console.print(view)
