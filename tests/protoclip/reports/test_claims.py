import io
from typing import Any, cast

import pytest
from rich.console import Console
from scipy import stats

from protoclip.reports import Row
from protoclip.reports.claims import Claim, Judgement, claims_markdown, judge, print_claims
from protoclip.reports.paired import Difference

TITLES = {"proto": "Proto CLIP", "clip": "CLIP"}
CLAIM = Claim("prototypes help", "proto", "clip", "x_knn/top1", margin=0.5)


def rows(arm: str, values: dict[int, float]) -> list[Row]:
    made: list[dict[str, Any]] = [
        {"arm": arm, "run": f"{arm}{seed}", "seed": seed, "task": "x_knn", "metrics": {"top1": value}}
        for seed, value in values.items()
    ]
    return cast(list[Row], made)


def test_the_interval_is_the_paired_t_test_s() -> None:
    proto, clip = {0: 12.0, 1: 13.5, 2: 11.0, 3: 15.0}, {1: 12.1, 2: 10.8, 3: 13.0, 4: 99.0}
    [judgement] = judge([CLAIM], [*rows("CLIP", clip), *rows("Proto CLIP", proto)], TITLES)
    seeds = (1, 2, 3)
    test = stats.ttest_rel([proto[seed] for seed in seeds], [clip[seed] for seed in seeds])
    expected = test.confidence_interval(0.95)
    assert judgement.difference is not None
    assert judgement.difference.count == 3
    assert judgement.difference.interval == pytest.approx((expected.low, expected.high))
    assert judgement.difference.mean == pytest.approx((1.4 + 0.2 + 2.0) / 3)


T = 4.302653  # 97.5 % of Student's t with two degrees of freedom


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (1.0, 0.9, "confirmed"),
        (0.5, 0.4, "confirmed"),
        (0.4, 0.3, "not decidable here"),  # above zero, and perhaps too small
        (0.2, 0.1, "not confirmed"),  # above zero, and too small
        (0.1, 0.4, "not confirmed"),  # a difference of the margin would have been told from zero
        (-2.0, 1.0, "not confirmed"),  # refuted
        (-1.0, 1.4, "not confirmed"),  # not told from zero, yet below the margin
        (1.0, 1.1, "not decidable here"),
        (0.0, 0.6, "not decidable here"),
    ],
)
def test_verdicts(mean: float, half: float, verdict: str) -> None:
    assert Judgement(CLAIM, Difference(mean, half / T, 3)).verdict == verdict


def test_two_seeds_decide_nothing() -> None:
    assert Judgement(CLAIM, Difference(9.0, 0.0, 2)).verdict == "not decidable here"
    assert Judgement(CLAIM, Difference(9.0, 0.0, 3)).verdict == "confirmed"


def test_tables() -> None:
    single = Claim("one | seed", "clip", "proto", "x_knn/top1")
    alone = Claim("nobody else", "clip", "gone", "x_knn/top1")
    made = [*rows("CLIP", {0: 1.0, 1: 2.0, 2: 3.0}), *rows("Proto CLIP", {0: 3.0, 1: 4.0, 2: 6.0})]
    judgements = judge([CLAIM, single, alone], made, {**TITLES, "gone": "Gone"})
    assert claims_markdown(judgements) == (
        "| claim | metric | seeds | difference [95 % interval] | verdict |\n"
        "| --- | --- | ---: | ---: | --- |\n"
        "| prototypes help | x_knn/top1 (margin 0.5) | 3 | +2.33 [0.90, 3.77] | confirmed |\n"
        "| one \\| seed | x_knn/top1 | 3 | -2.33 [-3.77, -0.90] | not confirmed |\n"
        "| nobody else | x_knn/top1 | 0 | - | not decidable here |\n"
    )
    console = Console(file=io.StringIO(), record=True, width=140)
    print_claims(judgements, console)
    lines = [[cell.strip() for cell in line.split("│")] for line in console.export_text().splitlines()]
    assert ["prototypes help", "x_knn/top1 (margin 0.5)", "3", "+2.33 [0.90, 3.77]", "confirmed"] in [
        line[1:-1] for line in lines
    ]


def test_a_column_that_nobody_has_is_told() -> None:
    claim = Claim("x", "proto", "clip", "x_knn/top5")
    with pytest.raises(ValueError, match="no row has a value of 'x_knn/top5'; there are x_knn/top1"):
        judge([claim], rows("CLIP", {0: 1.0}), TITLES)
