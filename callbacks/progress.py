"""A progress bar that says what an episode is doing: extracting, clustering, training."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm, TQDMProgressBar

from protoclip.module import ImageTextPretraining

SHOWN = {"extraction": "extracting", "clustering": "clustering", "back_translation": "back-translating"}


class EpisodeProgress(TQDMProgressBar):
    """Lightning's bar, with the episode's number and a bar of its own for each phase of the refresh.

    Args:
        refresh_rate: steps between updates.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._phase_bar: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen to the module's clock."""
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, ImageTextPretraining)
        if self not in pl_module.clock.listeners:
            pl_module.clock.listeners.append(self)

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Name the episode."""
        bar = self.train_progress_bar
        bar.set_description(self._title("training"), refresh=False)
        bar.reset(self.total_train_batches)

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name the set, at its first batch."""
        if self.has_dataloader_changed(dataloader_idx):
            name = [*trainer.datamodule.test][dataloader_idx]  # type: ignore[attr-defined]
            bar = self.test_progress_bar
            bar.set_description(f"extracting {name}" if batch else f"{name} is extracted", refresh=False)
            bar.reset(self.total_test_batches_current_dataloader)

    def phase_changed(self, name: str | None, total: int | None) -> None:
        """Open a bar for a phase of the refresh; training and validation have Lightning's."""
        if self._phase_bar is not None:
            self._phase_bar.close()
            self._phase_bar = None
        if name in SHOWN and self.is_enabled:
            self._phase_bar = Tqdm(
                desc=self._title(SHOWN[name]),
                total=total,
                leave=False,
                dynamic_ncols=True,
                file=sys.stdout,
                bar_format="{desc} [{elapsed}]" if total is None else self.BAR_FORMAT,
            )

    def phase_advanced(self) -> None:
        """One step of the current phase is done."""
        if self._phase_bar is not None:
            self._phase_bar.update()

    def _title(self, phase: str) -> str:
        return f"episode {self.trainer.current_epoch + 1}/{self.trainer.max_epochs} {phase}"

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The running loss, without Lightning's version number."""
        metrics = super().get_metrics(*args, **kwargs)
        metrics.pop("v_num", None)
        return metrics
