from typing import Any

import pytest

from protoclip.reports.main_metrics import main_columns, split_task, with_averages
from protoclip.reports.rows import Row
from protoclip.reports.tables import comparison_table


def row(run: str, task: str, /, **metrics: float | None) -> Row:
    made: dict[str, Any] = {"run": run, "name": "n", "git": "g", "model": "m", "method": run, "seed": 0, "arm": run}
    made |= {"data": {}, "counts": {}, "prompts": "p", "cost": {}, "time": "t", "task": task, "metrics": metrics}
    return made  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("cifar10_zero_shot", ("zero_shot", "cifar10")),
        ("cifar10_token_zero_shot", ("token_zero_shot", "cifar10")),
        ("cost", ("cost", "")),
        ("pets_my_task", ("pets_my_task", "")),
    ],
)
def test_a_task_is_told_by_its_longest_end(task: str, parts: tuple[str, str]) -> None:
    assert split_task(task) == parts


def test_main_columns_by_kind_and_set() -> None:
    rows = [
        row("a", "cost", steps=9.0, pairs=3.0),
        row("a", "stl10_clustering", ari=0.1, ami=0.2, nmi=0.3),
        row("a", "cifar10_zero_shot", top1=1.0, top5=2.0),
        row("a", "pets_my_task", score=1.0, other=2.0),
        row("a", "dtd_zero_shot", top1=None),
        row("b", "stl10_zero_shot", top1=1.0),
        row("b", "prototypes", prototype_image_empty=0.0),
    ]
    assert [(column.name, column.kind, column.label) for column in main_columns(rows)] == [
        ("cifar10_zero_shot/top1", "zero-shot classification", "cifar10 top1"),
        ("stl10_zero_shot/top1", "zero-shot classification", "stl10 top1"),
        ("stl10_clustering/ari", "clustering", "stl10 ari"),
        ("stl10_clustering/ami", "clustering", "stl10 ami"),
        ("cost/steps", "cost of training", "steps"),
        ("pets_my_task/score", "pets my task", "score"),
    ]
    assert [column.digits for column in main_columns(rows)] == [2, 2, 3, 3, 0, 2]


def test_averages_are_over_the_sets_that_all_runs_have() -> None:
    rows = [
        *(row("a", f"{name}_zero_shot", top1=value) for name, value in (("x", 10.0), ("y", 30.0), ("z", 90.0))),
        *(row("b", f"{name}_zero_shot", top1=value) for name, value in (("y", 50.0), ("x", 20.0))),
        *(row(run, f"{name}_clustering", ari=0.1, ami=0.5) for run in "ab" for name in "xy"),
        *(row(run, f"{name}_retrieval", mean_recall=None, modality_gap=0.5) for run in "ab" for name in "xy"),
        row("a", "x_knn", top1=1.0),
    ]
    found = with_averages(rows)
    assert found[: len(rows)] == rows
    added = {(each["run"], each["task"]): each["metrics"] for each in found[len(rows) :]}
    assert added == {
        ("a", "mean_of_2_sets_zero_shot"): {"top1": 20.0},
        ("b", "mean_of_2_sets_zero_shot"): {"top1": 35.0},
        ("a", "mean_of_2_sets_clustering"): pytest.approx({"ari": 0.1, "ami": 0.5}),
        ("b", "mean_of_2_sets_clustering"): pytest.approx({"ari": 0.1, "ami": 0.5}),
    }
    columns = [column for column in main_columns(found) if column.kind == "zero-shot classification"]
    assert [column.label for column in columns] == ["x top1", "y top1", "z top1", "mean of 2 sets top1"]
    table = comparison_table(found, [columns[-1].name])
    assert [line.cells[0].mean for line in table.lines if line.cells[0]] == [20.0, 35.0]
