"""What is left of a run whose loss was not finite: a checkpoint to look at, which no run goes on from."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from protoclip.divergence import NonFiniteError

MARKER = "diagnostic"


class Divergence(Callback):
    """Writes a diagnostic checkpoint when a run stops with ``NonFiniteError``, and refuses to train from one.

    Args:
        path: of the checkpoint; its entry ``diagnostic`` holds step, episode, terms, features, indices and positions.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._error: NonFiniteError | None = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the state, and name the file in the message."""
        if isinstance(exception, NonFiniteError):
            self._error = exception
            trainer.save_checkpoint(self.path)
            exception.checkpoint = self.path
            self._error = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Mark the checkpoint."""
        if self._error is not None:
            checkpoint[MARKER] = self._error.facts()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let nobody train on.

        Raises:
            ValueError: a run would go on from a diagnostic checkpoint.
        """
        if trainer.state.fn == TrainerFn.FITTING and MARKER in checkpoint:
            step = checkpoint[MARKER]["step"]
            raise ValueError(
                f"{trainer.ckpt_path} is the diagnostic checkpoint of a run that diverged at step {step}: "
                f"go on from last.ckpt"
            )
