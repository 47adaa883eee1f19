from pathlib import Path

import pytest

from protoclip.reports.curves import Curve, mean_curve, read_curves


def test_values_of_an_episode_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,lr,train/loss,validation/loss\n"
        "0,1,,4.0,\n"
        ",1,0.5,,\n"  # logged without its episode
        "0,3,,2.0,\n"
        "2,9,,1.0,\n"
        "2,9,,,7.0\n"
    )
    assert read_curves(path) == {
        "train/loss": Curve((1, 3), (3.0, 1.0)),
        "validation/loss": Curve((3,), (7.0,)),
    }


def test_mean_over_those_that_have_the_episode() -> None:
    curves = [Curve((1, 2), (1.0, 2.0)), Curve((2, 3), (4.0, 5.0))]
    assert mean_curve(curves) == Curve((1, 2, 3), (1.0, 3.0, 5.0))


def test_a_damaged_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss\n0,1,3.0\n1,2,3.x\n")
    with pytest.raises(ValueError, match=r"metrics.csv: line 3 is damaged .*: delete it"):
        read_curves(path)
