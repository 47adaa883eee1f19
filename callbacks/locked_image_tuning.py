"""Locked-image tuning: the last episodes of a run train everything but the image tower (ProtoCLIP, section IV-A).

A learning rate of 0 is no lock: batch norms would go on following the batches, and prototypes would be renewed that
nobody is trained on. Here the tower stands still in evaluation mode without gradients, and terms that learn from
prototypes are off.
"""

from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from protoclip.module import ImageTextPretraining
from protoclip.phases import Phase
from protoclip.ranges import Share
from protoclip.terms import Term

OPTION = "callbacks.locked_image_tuning.start"
FINENESS = 1000
"""Steps of an episode that stand for whatever number it has, to see whether the warm-up ends in time."""


class LockedImageTuning(Callback):
    """Locks the image tower for the rest of a run; its learning rate has fallen to 0 by then.

    Terms with banks have weight 0 from there on. The heads of the image tower are not locked, nor is anything else.

    Args:
        start: share of the run's episodes after which the tower is locked; 1 for never.
    """

    def __init__(self, *, start: Share) -> None:
        self.start = start
        self._locked: list[nn.Parameter] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the module from which episode on, before it makes its schedule.

        Raises:
            ValueError: a start before the image tower or a term with a bank is trained, or after which nothing is.
        """
        assert isinstance(pl_module, ImageTextPretraining)
        assert trainer.max_epochs is not None
        episode = round(self.start * trainer.max_epochs)
        if episode >= trainer.max_epochs:
            if self.start < 1:
                rank_zero_warn(f"{OPTION}={self.start} locks nothing in a run of {trainer.max_epochs} episodes")
            return
        self._check(pl_module, episode, trainer.max_epochs)
        phase = Phase(from_episode=episode, weights=dict.fromkeys(_terms_with_banks(pl_module), 0.0))
        pl_module.phases["locked_image"] = phase
        pl_module.image_locked_from = episode
        if not any(pl_module.active_weights(episode).values()):
            raise ValueError(f"no term is trained while the image tower is locked: set {OPTION}=1")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lock the tower where its time has come."""
        if self._active(trainer, pl_module):
            self._lock(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Keep it in evaluation mode, whatever other callbacks have done in between."""
        if self._active(trainer, pl_module):
            _tower(pl_module).eval()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as trainable as it was."""
        for parameter in self._locked:
            parameter.requires_grad_(True)
        self._locked = []

    def _check(self, module: ImageTextPretraining, episode: int, episodes: int) -> None:
        told = f"{OPTION}={self.start} locks the image tower after {episode} of {episodes} episodes"
        if episode < 1:
            raise ValueError(f"{told}, before it is trained: raise it")
        before = module.active_weights(episode - 1)
        for name, term in _terms_with_banks(module).items():
            if term.weight and not before[name]:
                raise ValueError(f"{told}, before term {name} is trained: raise it, or shorten the term's warm-up")
        try:
            module.schedule_factory(episodes * FINENESS, stop=episode * FINENESS)
        except ValueError as error:
            told = f"{told}, before the learning rate has warmed up"
            raise ValueError(f"{told}: raise it, or lower optimizer.schedule.warmup") from error

    def _active(self, trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        assert isinstance(module, ImageTextPretraining)
        return module.image_locked_from is not None and trainer.current_epoch >= module.image_locked_from

    def _lock(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Freeze what is trained of the tower, and let DDP's reducer, which would wait for it, forget it."""
        tower = _tower(module).eval()
        trained = [parameter for parameter in tower.parameters() if parameter.requires_grad]
        if not trained:
            return
        self._locked = trained
        tower.requires_grad_(False)
        module.zero_grad()
        if isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy.model = module
            trainer.strategy.configure_ddp()


def _terms_with_banks(module: ImageTextPretraining) -> dict[str, Term]:
    return {name: term for name, term in module.terms.items() if isinstance(term, Term) and term.banks}


def _tower(module: pl.LightningModule) -> nn.Module:
    return module.get_submodule("towers.image")
