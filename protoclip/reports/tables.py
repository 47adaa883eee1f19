"""Comparison tables: mean and standard error over seeds, the best marked, differences to the first line.

table = comparison_table(read_rows(*paths), ["scenes_zero_shot/top1", "scenes_clustering/ari"])
print(to_markdown(table))
"""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import rich.table
from rich.console import Console
from rich.markup import escape

from protoclip.reports.paired import (
    Difference,
    GroupKey,
    Samples,
    column_samples,
    group_rows,
    paired_difference,
    standard_error,
)
from protoclip.reports.rows import Row

UNIT_SCALE = frozenset(
    {"ari", "ami", "nmi", "purity", "silhouette", "davies_bouldin", "modality_gap", "self_similarity", "feature_std"}
)
"""Metrics that are not in percent: printed with three decimals instead of two."""
LOWER_IS_BETTER = frozenset({"davies_bouldin"})
NO_BEST = frozenset(
    {"modality_gap", "self_similarity", "feature_std", "used_clusters", "C"}
    | {"episodes", "steps", "pairs", "seconds", "relative_epoch", "relative_cost"}
)
"""Metrics that describe a model without ranking it."""


@dataclass(frozen=True)
class Cell:
    """One group's values of one column."""

    mean: float
    error: float | None
    """Standard error of the mean over seeds; None for a single seed."""
    count: int
    """Seeds."""
    difference: Difference | None
    """To the first line over the seeds that both have; None on the first line, or where there is no such seed."""
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
    groups = group_rows(rows, group_by)
    first = next(iter(groups))
    samples = {column: column_samples(groups, column) for column in columns}
    best = {column: _best(column, list(values.values())) for column, values in samples.items()}
    lines = [
        Line(
            key,
            tuple(
                _cell(values[key], values[first] if key != first else {}, column, best[column])
                for column, values in samples.items()
            ),
        )
        for key in groups
    ]
    return Table(tuple(group_by), tuple(samples), tuple(lines))


def _best(column: str, cells: Sequence[Samples]) -> float | None:
    """The best mean as printed, so that what looks equal is marked equally."""
    metric = metric_of(column)
    means = [round(statistics.fmean(cell.values()), decimals(column)) for cell in cells if cell]
    if metric in NO_BEST or len(means) < 2:
        return None
    return min(means) if metric in LOWER_IS_BETTER else max(means)


def _cell(samples: Samples, reference: Samples, column: str, best: float | None) -> Cell | None:
    if not samples:
        return None
    mean = statistics.fmean(samples.values())
    return Cell(
        mean=mean,
        error=standard_error(list(samples.values())),
        count=len(samples),
        difference=paired_difference(samples, reference),
        best=best is not None and round(mean, decimals(column)) == best,
    )


def decimals(column: str) -> int:
    """Printed decimals of a column: two for percentages, three for scores of about 1."""
    return 3 if metric_of(column) in UNIT_SCALE else 2


def metric_of(column: str) -> str:
    """The metric of a column ``task/metric``, whatever it is taken of: ``nmi`` of ``x_pseudo_labels/image_nmi``."""
    metric = column.rpartition("/")[2]
    known = UNIT_SCALE | LOWER_IS_BETTER | NO_BEST
    return next((name for name in known if metric.endswith(f"_{name}")), metric)


def difference_text(difference: Difference, digits: int, *, interval: bool) -> str:
    """``+2.01 ± 0.40``, or with the 95 % interval ``+2.01 [0.29, 3.73]``; the difference alone for a single seed."""
    text = f"{difference.mean:+z.{digits}f}"
    if difference.error is None or difference.interval is None:
        return text
    low, high = difference.interval
    return f"{text} [{low:z.{digits}f}, {high:z.{digits}f}]" if interval else f"{text} ± {difference.error:.{digits}f}"


def _texts(table: Table, bold: str, *, intervals: bool = False) -> list[list[str]]:
    """Printed cells, line by line: ``21.47 ± 0.33 (+2.01 ± 0.40)``, then the number of seeds."""
    return [
        [
            *line.key,
            *(
                _text(cell, decimals(column), bold, intervals)
                for cell, column in zip(line.cells, table.columns, strict=True)
            ),
            str(max((cell.count for cell in line.cells if cell), default=0)),
        ]
        for line in table.lines
    ]


def _text(cell: Cell | None, digits: int, bold: str, intervals: bool) -> str:
    if cell is None:
        return "-"
    text = f"{cell.mean:z.{digits}f}" + ("" if cell.error is None else f" ± {cell.error:.{digits}f}")
    text = bold.format(text) if cell.best else text
    if cell.difference is None:
        return text
    return f"{text} ({difference_text(cell.difference, digits, interval=intervals)})"


def _header(table: Table) -> list[str]:
    return [*table.group_by, *table.columns, "seeds"]


def to_markdown(table: Table, titles: Mapping[str, str] | None = None, *, intervals: bool = False) -> str:
    """Render as a Markdown table, the best of each column in bold.

    Args:
        table: the comparison.
        titles: printed instead of the columns.
        intervals: give differences with their 95 % interval instead of their standard error.
    """
    header = [(titles or {}).get(name, name) for name in _header(table)]
    keys = len(table.group_by)
    rule = ["---"] * keys + ["---:"] * (len(header) - keys)
    return markdown_lines([header, rule, *_texts(table, "**{}**", intervals=intervals)])


def to_markdown_by_metric(table: Table, titles: Mapping[str, str]) -> str:
    """Render as a Markdown table with a metric a line, so that a page holds many: see ``to_markdown``.

    Args:
        table: the comparison.
        titles: printed instead of the columns.
    """
    header = ["metric", *(" ".join(line.key) for line in table.lines)]
    lines = [[titles.get(name, name), *cells] for name, *cells in _by_metric(table, "**{}**", intervals=True)]
    return markdown_lines([header, ["---"] + ["---:"] * len(table.lines), *lines])


def _by_metric(table: Table, bold: str, *, intervals: bool = False) -> list[tuple[str, ...]]:
    """Printed cells, column by column: its name, then the groups."""
    groups = [cells[len(table.group_by) :] for cells in _texts(table, bold, intervals=intervals)]
    return list(zip((*table.columns, "seeds"), *groups, strict=True))


def markdown_lines(lines: Iterable[Iterable[str]]) -> str:
    """Cells as lines of a Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def to_csv(table: Table) -> str:
    """Render as CSV, to six digits: mean, standard error, seeds, difference with standard error and 95 % interval."""
    parts = ("mean", "error", "count", "difference", "difference_error", "difference_low", "difference_high")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*table.group_by, *(f"{column}:{part}" for column in table.columns for part in parts)])
    for line in table.lines:
        values = [value for cell in line.cells for value in _numbers(cell)]
        writer.writerow([*line.key, *("" if value is None else f"{value:.6g}" for value in values)])
    return buffer.getvalue()


def _numbers(cell: Cell | None) -> tuple[float | None, ...]:
    if cell is None:
        return (None,) * 7
    difference = cell.difference
    if difference is None:
        return (cell.mean, cell.error, cell.count, None, None, None, None)
    return (
        cell.mean,
        cell.error,
        cell.count,
        difference.mean,
        difference.error,
        *(difference.interval or (None, None)),
    )


def print_table(table: Table, console: Console) -> None:
    """Print to a rich console, a group a column so that a screen holds many metrics, the best of each in bold."""
    view = rich.table.Table()
    view.add_column("/".join(table.group_by), no_wrap=True)
    for line in table.lines:
        view.add_column(escape(" ".join(line.key)), justify="right")
    for name, *values in _by_metric(table, "[bold]{}[/bold]"):
        view.add_row(escape(name), *values)
    console.print(view)
