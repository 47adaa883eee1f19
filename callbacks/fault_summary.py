"""What of the corpus each episode could not use."""

import logging
from collections import Counter

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from callbacks.figures import log_figures
from datamodules.datamodule import ImageTextDataModule
from datamodules.sources import FaultKind
from protoclip.distributed import gather

logger = logging.getLogger(__name__)


class FaultSummary(Callback):
    """Tells at the end of each episode that had any how many faults of each kind its two passes met, in all processes.

    The run's totals are logged as ``faults/<kind>``, from the first fault on.
    """

    def __init__(self) -> None:
        self._before: Counter[FaultKind] = Counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has told the earlier ones."""
        self._before = _totals(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the episode's faults, and log the totals."""
        totals = _totals(trainer)
        if new := totals - self._before:
            kinds = ", ".join(f"{number} {kind}" for kind, number in new.most_common())
            counts = (trainer.current_epoch, new.total(), kinds, totals.total())
            logger.warning("episode %d: %d faults passed over (%s); %d so far", *counts)
        self._before = totals
        if totals:
            figures = {f"faults/{kind}": float(number) for kind, number in totals.items()}
            log_figures(trainer, figures, trainer.global_step - 1)


def _totals(trainer: pl.Trainer) -> Counter[FaultKind]:
    """Of all processes, on rank 0."""
    datamodule: object = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(datamodule, ImageTextDataModule)
    return sum(gather(Counter(datamodule.faults)), Counter())
