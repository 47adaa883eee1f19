import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from protoclip.comparison import Arm, Comparison
from protoclip.reports.claims import Claim

CONF = Path(__file__).parents[2] / "conf" / "compare"


def comparison(arms: dict[str, Arm], **more: Any) -> Comparison:
    return Comparison("c", [0, 1], arms, [], "p", **more)


def test_seeds_of_an_arm_are_its_own_or_the_comparison_s() -> None:
    made = comparison({"a": Arm(title="A b"), "b": Arm(seeds=[1, 2])})
    assert made.jobs == [("a", 0), ("a", 1), ("b", 1), ("b", 2)]
    assert made.titles == {"a": "A b", "b": "b"}


def test_a_cost_is_measured_by_the_first_arm_and_the_costly_one() -> None:
    made = comparison({"a": Arm(), "b": Arm(), "c": Arm(), "d": Arm(cost_of="c")})
    assert made.measured_by("c") == set()
    assert made.measured_by("d") == {"a", "c"}


def test_claims_of_an_arm_that_is_left_out_are_not_judged() -> None:
    claims = [Claim("x", "a", "b", "t/m"), Claim("y", "a", "c", "t/m")]
    assert comparison({"a": Arm(), "b": Arm()}, claims=claims).judged == claims[:1]


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ({}, "compare.arms is empty"),
        ({"a": Arm(seeds=[])}, "compare.arms.a has no seeds: give some, or leave it out by ~compare.arms.a"),
        ({"a": Arm(cost_of="b"), "b": Arm()}, "compare.arms.a.cost_of names 'b': list that arm before this one"),
        ({"a": Arm(), "b": Arm(cost_of="b")}, "compare.arms.b.cost_of names 'b': list that arm before this one"),
    ],
)
def test_mistakes_are_told(arms: dict[str, Arm], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        comparison(arms)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_claims_name_arms(path: Path) -> None:
    settings = OmegaConf.load(path)
    base = OmegaConf.load(CONF / f"{settings.defaults[0]}.yaml") if "defaults" in settings else OmegaConf.create()
    arms = OmegaConf.merge(base, settings).arms
    for claim in settings.claims if "claims" in settings else ():
        assert {claim.arm, claim.against} <= arms.keys()
        assert claim.arm != claim.against
    assert {arm.cost_of for arm in arms.values() if arm.get("cost_of")} <= arms.keys()
