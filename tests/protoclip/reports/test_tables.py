import csv
import io
import math
from typing import Any, cast

import pytest
from rich.console import Console

from protoclip.reports import Row, Table, comparison_table, print_table, to_csv, to_markdown
from protoclip.reports.paired import Difference
from protoclip.reports.tables import decimals, to_markdown_by_metric

TOP1, ARI = "scenes_zero_shot/top1", "scenes_clustering/ari"


def _rows(arm: str, task: str, metric: str, values: list[float | None], **fields: Any) -> list[Row]:
    rows: list[dict[str, Any]] = [
        {"arm": arm, "run": f"{arm}{seed}", "seed": seed, "task": task, "metrics": {metric: value}, **fields}
        for seed, value in enumerate(values)
    ]
    return cast(list[Row], rows)


def _table() -> Table:
    rows = [
        *_rows("clip", "scenes_zero_shot", "top1", [10.0, 14.0]),
        *_rows("proto", "scenes_zero_shot", "top1", [13.0, 16.0]),
        *_rows("none", "scenes_zero_shot", "top1", [9.0]),
        *_rows("clip", "scenes_clustering", "ari", [0.2161]),
        *_rows("proto", "scenes_clustering", "ari", [0.2159]),
    ]
    return comparison_table(rows, [TOP1, ARI])


def test_means_errors_and_differences_by_hand() -> None:
    clip, proto, none = _table().lines
    assert (clip.key, proto.key, none.key) == (("clip",), ("proto",), ("none",))
    first, second, third = clip.cells[0], proto.cells[0], none.cells[0]
    assert first is not None
    assert second is not None
    assert third is not None
    assert [first.mean, first.error, second.mean, second.error] == pytest.approx([12.0, 2.0, 14.5, 1.5])
    assert (first.count, first.difference) == (2, None)
    error = math.sqrt(((3 - 2.5) ** 2 + (2 - 2.5) ** 2) / 1) / math.sqrt(2)
    assert second.difference is not None
    assert (second.difference.mean, second.difference.count) == (2.5, 2)
    assert second.difference.error == pytest.approx(error)
    assert (third.error, third.difference) == (None, Difference(-1.0, None, 1))  # to the same seed
    assert [cell.best for cell in (first, second, third)] == [False, True, False]
    assert none.cells[1] is None


def test_markdown() -> None:
    assert to_markdown(_table()) == (
        "| arm | scenes_zero_shot/top1 | scenes_clustering/ari | seeds |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| clip | 12.00 ± 2.00 | **0.216** | 2 |\n"
        "| proto | **14.50 ± 1.50** (+2.50 ± 0.50) | **0.216** (+0.000) | 2 |\n"
        "| none | 9.00 (-1.00) | - | 1 |\n"
    )


def test_markdown_with_intervals() -> None:
    lines = to_markdown(_table(), intervals=True).splitlines()
    assert lines[3] == "| proto | **14.50 ± 1.50** (+2.50 [-3.85, 8.85]) | **0.216** (+0.000) | 2 |"


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(_table()))))
    assert [row["arm"] for row in rows] == ["clip", "proto", "none"]
    assert rows[1][f"{TOP1}:mean"] == "14.5"
    assert rows[1][f"{TOP1}:difference"] == "2.5"
    assert rows[1][f"{TOP1}:difference_low"] == "-3.8531"
    assert rows[1][f"{TOP1}:difference_high"] == "8.8531"
    assert rows[1][f"{TOP1}:count"] == "2"
    assert rows[1][f"{ARI}:difference"] == "-0.0002"
    assert rows[2][f"{ARI}:mean"] == rows[0][f"{TOP1}:difference"] == ""


def test_print_table() -> None:
    console = Console(record=True, width=140, file=io.StringIO(), force_terminal=True)
    rows = [*_rows("[red]a[/red]", "t", "top1", [1.0]), *_rows("b", "t", "top1", [2.0])]
    print_table(comparison_table(rows, ["t/top1"]), console)
    text = console.export_text(styles=True)
    assert "[red]a[/red]" in text
    assert "\x1b[1m2.00\x1b[0m (+1.00)" in text
    assert "\x1b[1m1.00" not in text


def test_lower_is_better_and_descriptions_have_no_best() -> None:
    for metric, best in [
        ("davies_bouldin", [True, False]),
        ("text_davies_bouldin", [True, False]),
        ("top1", [False, True]),
        ("modality_gap", [False, False]),
        ("image_self_similarity", [False, False]),
    ]:
        rows = [*_rows("a", "t", metric, [0.1]), *_rows("b", "t", metric, [0.9])]
        table = comparison_table(rows, [f"t/{metric}"])
        assert [cell.best for line in table.lines for cell in line.cells if cell] == best


@pytest.mark.parametrize(
    ("metric", "digits"),
    [("nmi", 3), ("image_nmi", 3), ("text_purity", 3), ("prototype_text_purity", 3), ("image_top1", 2)],
)
def test_a_metric_of_some_part_has_the_decimals_of_the_metric(metric: str, digits: int) -> None:
    assert decimals(f"image_nmi/{metric}") == digits


def test_the_last_evaluation_of_a_run_counts_and_null_is_no_value() -> None:
    rows = [*_rows("a", "t", "top1", [1.0, 2.0]), *_rows("a", "t", "top1", [5.0, None])]
    cell = comparison_table(rows, ["t/top1"]).lines[0].cells[0]
    assert cell is not None
    assert (cell.mean, cell.count) == (5.0, 1)


def test_groups_by_several_and_nested_fields() -> None:
    rows = [
        *_rows("a", "t", "top1", [1.0], method="clip", data={"name": "x"}),
        *_rows("b", "t", "top1", [2.0], method="clip", data={"name": "y"}),
    ]
    table = comparison_table(rows, ["t/top1"], group_by=("method", "data.name"))
    assert [line.key for line in table.lines] == [("clip", "x"), ("clip", "y")]
    assert to_markdown(table).startswith("| method | data.name | t/top1 | seeds |")


def test_seeds_are_paired_by_number_not_by_order() -> None:
    first = _rows("a", "t", "top1", [1.0, 11.0])
    second = _rows("b", "t", "top1", [2.0, 12.0])[::-1]
    cell = comparison_table([*first, *second], ["t/top1"]).lines[1].cells[0]
    assert cell is not None
    assert cell.difference == Difference(1.0, 0.0, 2)


def test_mistakes_are_named() -> None:
    rows = _rows("a", "t", "top1", [1.0])
    with pytest.raises(ValueError, match="no rows to compare"):
        comparison_table([], ["t/top1"])
    with pytest.raises(ValueError, match="no row has a value of 't/top2'; there are t/top1"):
        comparison_table(rows, ["t/top2"])
    with pytest.raises(ValueError, match="no field 'metod'"):
        comparison_table(rows, ["t/top1"], group_by=("metod",))
    twin = cast(Row, {**rows[0], "run": "twin"})
    with pytest.raises(ValueError, match="a has two runs of seed 0 for t, one is twin"):
        comparison_table([*rows, twin], ["t/top1"])


def test_costs_have_no_best() -> None:
    rows = [*_rows("a", "cost", "seconds", [1.0]), *_rows("b", "cost", "seconds", [2.0])]
    table = comparison_table(rows, ["cost/seconds"])
    assert [cell.best for line in table.lines for cell in line.cells if cell] == [False, False]


def test_markdown_with_a_metric_a_line() -> None:
    lines = to_markdown_by_metric(_table(), {TOP1: "top-1 | all"}).splitlines()
    assert lines == [
        "| metric | clip | proto | none |",
        "| --- | ---: | ---: | ---: |",
        "| top-1 \\| all | 12.00 ± 2.00 | **14.50 ± 1.50** (+2.50 [-3.85, 8.85]) | 9.00 (-1.00) |",
        "| scenes_clustering/ari | **0.216** | **0.216** (+0.000) | - |",
        "| seeds | 2 | 2 | 1 |",
    ]
