"""The front doors' parser knows the ranges (protoclip/ranges.py)."""

from typing import Any

import pytest

from protoclip.instantiate import SettingsError, instantiate
from protoclip.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share


class Ranges:
    def __init__(
        self,
        positive_int: PositiveInt = 1,
        non_negative_int: NonNegativeInt = 0,
        positive_float: PositiveFloat = 1e-9,
        non_negative_float: NonNegativeFloat = 0.0,
        share: Share = 0.5,
        optional: PositiveInt | None = None,
    ) -> None:
        self.given = locals()


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("positive_int", [1, 7], [0, -1, 1.5, "many", None]),
        ("non_negative_int", [0, 7], [-1, 0.5, None]),
        ("positive_float", [1e-9, 2.5, 3], [0.0, -1.0, "much", None]),
        ("non_negative_float", [0.0, 0, 2.5], [-1e-9, None]),
        ("share", [0.0, 0.3, 1.0], [-0.1, 1.1, None]),
        ("optional", [1, None], [0, -1]),
    ],
)
def test_a_range_is_checked(name: str, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        assert instantiate(Ranges, {name: value}, "ranges").given[name] == value
    for value in outside:
        with pytest.raises(SettingsError, match=f"ranges.{name}"):
            instantiate(Ranges, {name: value}, "ranges")
