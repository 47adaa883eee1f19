"""What a report tells of each kind of task: its main metrics, and their means over the sets.

Kinds are told by the ends of the tasks' names, ``<set>_<kind>``; a task of another kind is shown with its first metric.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from protoclip.reports.rows import Row
from protoclip.reports.tables import NO_BEST, decimals, metric_of

MAIN_METRICS = {
    "zero_shot": ("top1",),
    "token_zero_shot": ("top1",),
    "linear_probe": ("top1",),
    "sgd_probe": ("top1",),
    "few_shot": ("top1",),
    "knn": ("top1",),
    "retrieval": ("mean_recall", "modality_gap"),
    "clustering": ("ari", "ami"),
    "pseudo_labels": ("image_nmi", "text_nmi"),
    "cost": ("steps", "seconds", "relative_epoch"),
    "prototypes": (),
}
"""By kind, in the order of a report."""
TITLES = {
    "zero_shot": "zero-shot classification",
    "token_zero_shot": "zero-shot classification by tokens",
    "linear_probe": "linear probe",
    "sgd_probe": "linear probe by SGD",
    "few_shot": "few-shot probe",
    "knn": "k-nearest neighbours",
    "pseudo_labels": "pseudo-label quality",
    "cost": "cost of training",
}
"""Of the kinds whose names do not say it."""
COUNTED = frozenset({"steps", "seconds"})
"""Metrics of hundreds or more."""


@dataclass(frozen=True)
class MainColumn:
    """A column of a report.

    Attributes:
        name: ``task/metric``, see ``comparison_table``.
        kind: title of the kind of its task.
        label: the set, with the metric where the kind has several.
    """

    name: str
    kind: str
    label: str

    @property
    def digits(self) -> int:
        """Decimals: none of what is counted."""
        return 0 if self.name.rpartition("/")[2] in COUNTED else decimals(self.name)


def main_columns(rows: Sequence[Row]) -> list[MainColumn]:
    """The main metrics that some row has a value of, by kind, sets in the order of the rows."""
    found = {(row["task"], name) for row in rows for name, value in row["metrics"].items() if value is not None}
    tasks = sorted(dict.fromkeys(row["task"] for row in rows), key=_place)  # stable: sets stay as they are
    columns: list[MainColumn] = []
    for task in tasks:
        kind, pictures = split_task(task)
        of_task = next(row["metrics"] for row in rows if row["task"] == task)
        metrics = MAIN_METRICS.get(kind, tuple(of_task)[:1])
        for metric in metrics:
            if (task, metric) in found:
                columns.append(MainColumn(f"{task}/{metric}", TITLES.get(kind, _words(kind)), _label(pictures, metric)))
    return columns


def split_task(task: str) -> tuple[str, str]:
    """Kind and set of a task: its name's longest end that is a kind, and what stands before it."""
    ends = [kind for kind in MAIN_METRICS if task == kind or task.endswith(f"_{kind}")]
    kind = max(ends, key=len, default=task)
    return kind, task.removesuffix(kind).removesuffix("_")


def with_averages(rows: Sequence[Row]) -> list[Row]:
    """Rows, and for each run the means of the main metrics over the sets that all runs have, where they are several.

    Their task is ``mean_of_<number>_sets_<kind>``. Metrics that do not rank a model have none.
    """
    runs: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        runs.setdefault((row.get("arm", ""), row["run"]), {})[row["task"]] = row
    averages: list[Row] = []
    for kind, metrics in MAIN_METRICS.items():
        ranking = [name for name in metrics if metric_of(name) not in NO_BEST]
        common = [task for task in _tasks_with(runs.values(), ranking) if split_task(task)[0] == kind]
        if len(common) < 2:
            continue
        task = f"mean_of_{len(common)}_sets_{kind}"
        for found in runs.values():
            means = {name: fmean(found[each]["metrics"][name] or 0.0 for each in common) for name in ranking}
            averages.append({**found[common[0]], "task": task, "metrics": dict(means), "prompts": None})
    return [*rows, *averages]


def _tasks_with(runs: Collection[Mapping[str, Row]], metrics: Sequence[str]) -> list[str]:
    """The tasks that every run has values of all these metrics for."""
    return [
        task
        for task in next(iter(runs), {})
        if all(task in found and found[task]["metrics"].get(name) is not None for found in runs for name in metrics)
    ]


def _place(task: str) -> int:
    kinds = list(MAIN_METRICS)
    kind = split_task(task)[0]
    return kinds.index(kind) if kind in kinds else kinds.index("cost")


def _label(pictures: str, metric: str) -> str:
    return " ".join(filter(None, (_words(pictures), _words(metric))))


def _words(name: str) -> str:
    return name.replace("_", " ")
