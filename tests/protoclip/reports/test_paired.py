from typing import Any, cast

import pytest

from protoclip.reports import Row
from protoclip.reports.paired import RELATIVE_COST, Difference, column_samples, group_rows, paired_difference


def costs(arm: str, seconds: dict[int, float], episodes: float) -> list[Row]:
    made: list[dict[str, Any]] = [
        {
            "arm": arm,
            "run": f"{arm}{seed}",
            "seed": seed,
            "task": "cost",
            "metrics": {"episodes": episodes, "seconds_per_episode": value, "seconds": 1000.0 * value},
        }
        for seed, value in seconds.items()
    ]
    return cast(list[Row], made)


def test_relative_cost_is_in_means_of_the_first_arm() -> None:
    rows = [*costs("a", {0: 2.0, 1: 4.0}, 10.0), *costs("b", {1: 4.5}, 20.0)]
    assert column_samples(group_rows(rows), RELATIVE_COST) == {("a",): {0: 20 / 30, 1: 40 / 30}, ("b",): {1: 3.0}}


def test_relative_cost_needs_the_first_arm_s() -> None:
    other: Any = {"arm": "a", "run": "a", "seed": 0, "task": "t", "metrics": {"top1": 1.0}}
    with pytest.raises(ValueError, match="no row has a value of 'cost/relative_cost'"):
        column_samples(group_rows([other, *costs("b", {0: 1.0}, 2.0)]), RELATIVE_COST)


def test_differences_are_over_the_seeds_of_both() -> None:
    assert paired_difference({0: 3.0, 1: 5.0, 7: 9.0}, {1: 1.0, 0: 1.0, 8: 0.0}) == Difference(3.0, 1.0, 2)
    assert paired_difference({0: 3.0}, {0: 1.0}) == Difference(2.0, None, 1)
    assert paired_difference({0: 3.0}, {1: 1.0}) is None


def test_intervals_by_hand() -> None:
    assert Difference(1.0, 0.5, 3).interval == pytest.approx((1 - 4.302653 * 0.5, 1 + 4.302653 * 0.5))
    assert Difference(1.0, 0.0, 2).interval == (1.0, 1.0)
    assert Difference(1.0, None, 1).interval is None
