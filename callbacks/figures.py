"""Figures that go to the loggers at once.

What ``log_dict(on_epoch=True)`` gathers is logged after the episode's checkpoint; a process that dies between the two
would leave a gap that no resumed run fills.
"""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch


def log_figures(trainer: pl.Trainer, figures: Mapping[str, float], step: int) -> None:
    """Log figures of the current episode, and let checkpoints monitor them.

    Args:
        trainer: with its loggers.
        figures: plain numbers by name.
        step: that they belong to.
    """
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})
    for logger in trainer.loggers:
        logger.log_metrics({**figures, "epoch": trainer.current_epoch}, step=step)
