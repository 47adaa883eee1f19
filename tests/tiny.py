"""Runs of a tiny model that several tests of a file share, and so cannot ask the function-scoped fixture for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from protoclip.cli.build import build_datamodule, build_module, build_trainer, find_run
from protoclip.module import ImageTextPretraining
from tests.conftest import composed_tiny


def locked(start: float) -> str:
    """The word that adds locked-image tuning."""
    target = "callbacks.locked_image_tuning.LockedImageTuning"
    return f"+callbacks.locked_image_tuning={{_target_:{target},start:{start}}}"


@dataclass(frozen=True)
class Built:
    """The parts of a run that has not started."""

    module: ImageTextPretraining
    datamodule: ImageTextDataModule
    trainer: pl.Trainer
    checkpoints: Path

    @property
    def callbacks(self) -> list[Callback]:
        """All callbacks of the trainer, checkpoints last."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    def fit(self, *callbacks: Callback, resume: Path | None = None) -> "Built":
        """Train, with further callbacks behind the run's own."""
        self.callbacks.extend(callbacks)
        self.trainer.fit(self.module, datamodule=self.datamodule, ckpt_path=resume, weights_only=True)
        return self


def tiny_config(runs: Path, method: str, *overrides: str, progress: bool = False) -> DictConfig:
    """A composed config of a tiny model on scenes."""
    return composed_tiny(runs, method, *overrides, progress=progress)


def build(config: DictConfig) -> Built:
    """The parts of a config's run."""
    datamodule = build_datamodule(config)
    run = find_run(config, datamodule)
    return Built(build_module(config), datamodule, build_trainer(config, datamodule), run.path / "checkpoints")


class Batches(Callback):
    """Keeps what every training step saw."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Mapping[str, Tensor], _: int
    ) -> None:
        """Keep a batch."""
        self.batches.append({name: value.clone() for name, value in batch.items()})
