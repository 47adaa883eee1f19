"""What each episode tells of faults, and the figures that are logged."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning import LightningModule

from callbacks.fault_summary import FaultSummary
from datamodules.datamodule import ImageTextDataModule
from datamodules.sources import FaultKind


class Recorder:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, figures: dict[str, float], step: int) -> None:
        """Keep a row."""
        self.rows.append((figures, step))


class Faulty(ImageTextDataModule):
    """A data module of nothing but counts."""

    def __init__(self) -> None:
        self.counts: dict[FaultKind, int] = {}

    @property
    def faults(self) -> dict[FaultKind, int]:
        """The counts."""
        return dict(self.counts)


def test_each_episode_with_faults_tells_them_and_totals_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    recorder, datamodule = Recorder(), Faulty()
    trainer: Any = SimpleNamespace(datamodule=datamodule, loggers=[recorder], callback_metrics={})
    summary, module = FaultSummary(), LightningModule()
    datamodule.counts = {"bad_text": 38}  # before a resume
    summary.on_train_start(trainer, module)
    new: list[dict[FaultKind, int]] = [{"unreadable_image": 2, "bad_text": 39}, {}, {"bad_json": 5}]
    for episode, counts in enumerate(new, start=12):
        datamodule.counts |= counts
        trainer.current_epoch, trainer.global_step = episode, 10 * episode
        summary.on_train_epoch_end(trainer, module)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "episode 12: 3 faults passed over (2 unreadable_image, 1 bad_text); 41 so far"),
        (logging.WARNING, "episode 14: 5 faults passed over (5 bad_json); 46 so far"),
    ]
    figures = {"faults/bad_text": 39.0, "faults/unreadable_image": 2.0}
    assert recorder.rows[:2] == [({**figures, "epoch": 12}, 119), ({**figures, "epoch": 13}, 129)]
    assert float(trainer.callback_metrics["faults/bad_json"]) == 5


def test_a_clean_corpus_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    trainer: Any = SimpleNamespace(datamodule=Faulty(), loggers=[Recorder()], callback_metrics={}, current_epoch=0)
    summary = FaultSummary()
    summary.on_train_start(trainer, LightningModule())
    summary.on_train_epoch_end(trainer, LightningModule())
    assert not caplog.records
    assert not trainer.loggers[0].rows
