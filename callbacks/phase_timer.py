"""Seconds of every phase of an episode, and the relative epoch."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from callbacks.figures import log_figures
from protoclip.clock import PhaseClock
from protoclip.module import ImageTextPretraining

COST_PHASES = ("extraction", "recording", "clustering", "back_translation", "training")


class PhaseTimer(Callback):
    """Logs ``seconds/<phase>`` at the end of each episode, keeps the run's sums, and survives a resume.

    The **relative epoch** is (extraction + recording + clustering + back translation + training) / training: what an
    episode costs in units of one without prototypes.
    """

    def __init__(self) -> None:
        self.episodes: list[dict[str, float]] = []
        self.steps = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Whatever no other callback claims is training."""
        _clock(pl_module).begin("training", int(trainer.num_training_batches))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is not part of an episode's cost."""
        _clock(pl_module).begin("validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to training."""
        _clock(pl_module).end()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the episode's seconds."""
        _clock(pl_module).end()
        seconds = _clock(pl_module).pop_seconds()
        self.episodes.append(seconds)
        self.steps = trainer.global_step
        figures = {f"seconds/{name}": value for name, value in seconds.items()}
        log_figures(trainer, figures | {"relative_epoch": relative_epoch([seconds])}, trainer.global_step - 1)

    def state_dict(self) -> dict[str, Any]:
        """The episodes and optimizer steps so far."""
        return {"episodes": self.episodes, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the episodes so far."""
        self.episodes = list(state_dict["episodes"])
        self.steps = state_dict["steps"]


def total_seconds(episodes: list[dict[str, float]]) -> dict[str, float]:
    """Sum over episodes by phase, those that an episode costs."""
    return {name: sum(episode.get(name, 0.0) for episode in episodes) for name in COST_PHASES}


def relative_epoch(episodes: list[dict[str, float]]) -> float:
    """All phases over training alone."""
    totals = total_seconds(episodes)
    return sum(totals.values()) / totals["training"]


def _clock(module: pl.LightningModule) -> PhaseClock:
    assert isinstance(module, ImageTextPretraining)
    return module.clock
