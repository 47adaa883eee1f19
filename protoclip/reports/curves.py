"""Curves of a run's ``metrics.csv`` over its episodes."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

METRICS = "metrics.csv"


@dataclass(frozen=True)
class Curve:
    """One figure of a run, or of the mean of several.

    Attributes:
        episodes: that it has a value at, 1 the first, in order.
        values: means over what was logged in each.
    """

    episodes: tuple[int, ...]
    values: tuple[float, ...]


def read_curves(path: Path) -> dict[str, Curve]:
    """All figures of a ``metrics.csv`` that were logged with their episode, by name.

    Raises:
        ValueError: a value is no number.
    """
    logged: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            if not row["epoch"]:
                continue
            try:
                for name, value in row.items():
                    if value and name not in {"epoch", "step"}:
                        logged[name][int(row["epoch"]) + 1].append(float(value))
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is damaged ({error}): delete it") from error
    return {name: _curve(values) for name, values in logged.items()}


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves, at each episode of those that have it."""
    values: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for episode, value in zip(curve.episodes, curve.values, strict=True):
            values[episode].append(value)
    return _curve(values)


def _curve(values: Mapping[int, Sequence[float]]) -> Curve:
    episodes = sorted(values)
    return Curve(tuple(episodes), tuple(fmean(values[episode]) for episode in episodes))
