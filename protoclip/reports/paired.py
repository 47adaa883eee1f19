"""Values of a column by seed, and what two groups of runs differ by over the seeds that both have."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from scipy import stats

from protoclip.reports.rows import Row

GroupKey = tuple[str, ...]
Samples = dict[int, float]
"""Seed to value."""

LEVEL = 0.95
RELATIVE_COST = "cost/relative_cost"
"""Column that no row holds: seconds of a run's median episode times its episodes, in means of the first group's."""


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences of two groups.

    Attributes:
        mean: first group minus second.
        error: standard error; None for a single seed.
        count: seeds that both groups have.
    """

    mean: float
    error: float | None
    count: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval by Student's t; None for a single seed."""
        if self.error is None:
            return None
        half = float(stats.t.ppf((1 + LEVEL) / 2, self.count - 1)) * self.error
        return self.mean - half, self.mean + half


def paired_difference(samples: Samples, reference: Samples) -> Difference | None:
    """What a group differs by from another one, seed by seed; None without a seed that both have."""
    paired = [value - reference[seed] for seed, value in samples.items() if seed in reference]
    return Difference(statistics.fmean(paired), standard_error(paired), len(paired)) if paired else None


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return statistics.stdev(values) / sqrt(len(values)) if len(values) > 1 else None


def group_rows(rows: Sequence[Row], group_by: Sequence[str] = ("arm",)) -> dict[GroupKey, list[Row]]:
    """Rows by the values of fields, groups in the order of the rows; ``data.name`` reaches into a field.

    Raises:
        ValueError: there are no rows, or a field does not exist.
    """
    if not rows:
        raise ValueError("no rows to compare: evaluate a run first")
    groups: dict[GroupKey, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_field(row, name) for name in group_by), []).append(row)
    return groups


def column_samples(groups: Mapping[GroupKey, Sequence[Row]], column: str) -> dict[GroupKey, Samples]:
    """Seed to value of every group in one column. Where a run was evaluated more than once, its last row counts.

    Args:
        groups: see ``group_rows``.
        column: ``task/metric``, or ``RELATIVE_COST``.

    Raises:
        ValueError: no group has a value, or a group has two runs of the same seed.
    """
    if column == RELATIVE_COST:
        samples = _relative_costs(groups)
    else:
        samples = {key: _samples(key, members, column) for key, members in groups.items()}
    if not any(samples.values()):
        rows = [row for members in groups.values() for row in members]
        known = sorted({f"{row['task']}/{metric}" for row in rows for metric in row["metrics"]})
        raise ValueError(f"no row has a value of {column!r}; there are {', '.join(known)}")
    return samples


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


def _relative_costs(groups: Mapping[GroupKey, Sequence[Row]]) -> dict[GroupKey, Samples]:
    seconds: dict[GroupKey, Samples] = {}
    for key, members in groups.items():
        episodes = _samples(key, members, "cost/episodes")
        medians = _samples(key, members, "cost/seconds_per_episode")
        seconds[key] = {seed: median * episodes[seed] for seed, median in medians.items()}
    if not (first := next(iter(seconds.values()))):
        return {key: {} for key in groups}
    unit = statistics.fmean(first.values())
    return {key: {seed: value / unit for seed, value in samples.items()} for key, samples in seconds.items()}
