from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from protoclip.cli.arms import Arm
from protoclip.cli.report_training import curve_section
from protoclip.reports import append_rows
from protoclip.runs import ROWS, SETTINGS, Run
from tests.protoclip.cli.test_arms import row

LOGGER = [{"class_path": "callbacks.metrics_csv.MetricsCSV"}]
LOGGED = "epoch,step,train/loss\n0,1,2.5\n1,3,1.5\n"


def arm(folder: Path, title: str, metrics: str | None, *, steps: int = 4, **trainer: Any) -> Arm:
    """A trained arm of one run with a ``metrics.csv``, or none."""
    run = Run(folder / title, title)
    append_rows(run.path / ROWS, [row(0, cost={"steps": float(steps)})])
    OmegaConf.save(OmegaConf.create({"trainer": {"logger": LOGGER, **trainer}}), run.path / SETTINGS)
    if metrics is not None:
        (run.path / "metrics.csv").write_text(metrics)
    return Arm(title, (run,))


@pytest.mark.parametrize("metrics", [None, "", "epoch,step,train/loss\n", "epoch,step,kmeans/x\n0,1,2.0\n"])
def test_an_arm_in_which_nothing_was_logged_is_named(tmp_path: Path, metrics: str | None) -> None:
    short, shown = arm(tmp_path, "short", metrics, log_every_n_steps=10), arm(tmp_path, "shown", LOGGED)
    reason = "Left out: short: nothing was logged in its 4 steps (trainer.log_every_n_steps=10)."
    made = curve_section([short, shown])
    assert made.left_out == [reason]
    assert [title for title, _ in made.legend] == ["shown"]
    alone = curve_section([short])
    assert (alone.left_out, alone.groups, alone.legend) == ([reason], (), ())


def test_every_arm_without_curves_has_its_reason(tmp_path: Path) -> None:
    untrained = arm(tmp_path, "untrained", None)
    (untrained.first.path / SETTINGS).unlink()
    silent = arm(tmp_path, "silent", None, logger=False)
    gone = arm(tmp_path, "gone", None, steps=100, log_every_n_steps=10)
    assert curve_section([untrained, silent, gone, arm(tmp_path, "shown", LOGGED)]).left_out == [
        "Left out: untrained: it was not trained here.",
        "Left out: silent: its loggers write no metrics.csv, as of logger=none.",
        "Left out: gone: its metrics.csv is gone, or holds no loss and no metric of a validation task.",
    ]
