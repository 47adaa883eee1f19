"""The episodic prototype refresh of ProtoCLIP (section III-D).

At the start of an episode, before its first step: get the projected features of its pairs, group them for each term
that learns from prototypes, translate the groups into each student's space, and write labels and prototypes into the
term's bank. Nothing of the data set changes. Of several processes each gives its share; rank 0 groups once, and its
banks become everyone's.

The features are *fresh*, by an extraction pass over the episode, or *recorded* in training at each pair's last visit,
which saves that pass: as good while pairs come again soon, stale where an episode is a small part of the corpus. Their
age is logged. Pairs that were not visited yet take no part, unless a share of fresh features is asked for.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from callbacks.episode_features import RecordedFeatures, extract
from callbacks.figures import log_figures
from datamodules.datamodule import ImageTextDataModule
from datamodules.sources import PairStream
from protoclip.distributed import broadcast_buffers, on_rank_zero
from protoclip.evaluation import cluster_purity
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import EpisodeFeatures, Grouping, PrototypeBank, Prototypes
from protoclip.ranges import Share
from protoclip.seeds import derive_seed
from protoclip.terms import FeatureKey, Term


class PrototypeRefresh(Callback):
    """Renews the banks of the terms that learn from prototypes whenever a new block of episodes begins.

    Args:
        groupings: who groups the pairs, by term; a term that the model does without is passed over. All terms read the
            same two features.
        features: ``fresh`` or ``recorded``.
        fresh_share: part of the episode's pairs, those with the oldest records, that are extracted all the same.
        folder: of the record.
        seed: of the clusterings.

    Attributes:
        figures: of the last refresh.

    Raises:
        ValueError: a share of fresh features where all are fresh.
    """

    def __init__(
        self,
        *,
        groupings: Mapping[str, Grouping],
        features: Literal["fresh", "recorded"] = "fresh",
        fresh_share: Share = 0.0,
        folder: str = "recorded",
        seed: int = 0,
    ) -> None:
        if features == "fresh" and fresh_share:
            raise ValueError("prototype.fresh_share is for prototype.features=recorded: leave it out")
        self.groupings = dict(groupings)
        self.recorded = RecordedFeatures(folder, fresh_share) if features == "recorded" else None
        self.seed = seed
        self.figures: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask the module for the features to record.

        Raises:
            ValueError: terms that read different features, or a record of a stream.
        """
        assert isinstance(pl_module, ImageTextPretraining)
        if len({self._term(pl_module, name).required for name in self._present(pl_module)}) > 1:
            raise ValueError(f"the terms {', '.join(self.groupings)} read different views or heads: bind them alike")
        if self.recorded and isinstance(_data(trainer).corpus, PairStream):
            raise ValueError(
                "features are recorded by places in a corpus, and a stream has none: set prototype.features=fresh"
            )
        if self.recorded and stage == "fit" and self._present(pl_module):
            pl_module.returned = self._keys(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the record."""
        assert isinstance(pl_module, ImageTextPretraining)
        if self.recorded and pl_module.returned:
            bank = self._bank(pl_module, self._present(pl_module)[0])
            self.recorded.open(trainer, len(_data(trainer).train), bank.image.prototypes.shape[1])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refresh the banks of active terms that are of another block."""
        assert isinstance(pl_module, ImageTextPretraining)
        if self.recorded:
            with pl_module.clock.phase("recording"):
                self.recorded.begin_episode()
        episode = trainer.current_epoch
        block = _data(trainer).plan.block(episode)
        weights = pl_module.active_weights(episode)
        due = [name for name in self._present(pl_module) if weights[name]]
        due = [name for name in due if int(self._bank(pl_module, name).block) != block]
        if due:
            features = self._features(pl_module, _data(trainer), episode)
            on_rank_zero(lambda: self._renew(pl_module, due, block, features))
            for name in due:
                broadcast_buffers(self._bank(pl_module, name))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a step's features."""
        assert isinstance(pl_module, ImageTextPretraining)
        if self.recorded and pl_module.returned:
            self.recorded.keep(
                batch["index"], batch["caption"], *(outputs["features"][key] for key in pl_module.returned)
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the episode's record to the checkpoint."""
        assert isinstance(pl_module, ImageTextPretraining)
        if self.recorded and pl_module.returned:
            with pl_module.clock.phase("recording"):  # counted with the next episode: this one's figures are told
                self.recorded.end_episode(trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The last refresh's figures, the last episode's record, and what the groupings keep."""
        recorded = self.recorded.state_dict() if self.recorded else {}
        kept = {name: grouping.state_dict() for name, grouping in self.groupings.items()}
        return {"figures": self.figures, "recorded": recorded, "groupings": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after ``state_dict``."""
        self.figures = dict(state_dict["figures"])
        if self.recorded:
            self.recorded.load_state_dict(state_dict["recorded"])
        for name, state in state_dict["groupings"].items():
            self.groupings[name].load_state_dict(state)

    def _present(self, module: ImageTextPretraining) -> list[str]:
        return [name for name in self.groupings if name in module.terms]

    def _term(self, module: ImageTextPretraining, name: str) -> Term:
        term = module.terms[name]
        assert isinstance(term, Term)
        return term

    def _keys(self, module: ImageTextPretraining) -> tuple[FeatureKey, ...]:
        return self._term(module, self._present(module)[0]).required

    def _bank(self, module: ImageTextPretraining, name: str) -> PrototypeBank:
        bank = module.banks[self._term(module, name).banks[0]]
        assert isinstance(bank, PrototypeBank)
        return bank

    def _features(
        self, module: ImageTextPretraining, datamodule: ImageTextDataModule, episode: int
    ) -> EpisodeFeatures | None:
        """Features of the episode's pairs, on rank 0; the figures of a new refresh begin with their age."""
        self.figures = {}
        if self.recorded is None:
            return extract(module, datamodule, episode, self._keys(module))
        with module.clock.phase("recording"):
            features, ages = self.recorded.recall(module, datamodule, episode, self._keys(module))
        self.figures |= {f"prototypes/{name}": value for name, value in ages.items()}
        return features

    def _renew(
        self, module: ImageTextPretraining, due: list[str], block: int, features: EpisodeFeatures | None
    ) -> None:
        """Group the pairs anew for every term that is due."""
        assert features is not None
        objectives: dict[str, float] = {}
        for name in due:
            bank = self._bank(module, name)
            if not len(features.positions):  # nothing is recorded yet
                bank.leave_out(block)
                continue
            found = self.groupings[name](
                features,
                bank.num_prototypes,
                teachers=_data(module.trainer).teachers,
                seed=derive_seed(self.seed, "prototypes", block) % 2**31,
                phase=module.clock.phase,
            )
            bank.write(block, found.image, found.text, features.positions)
            self.figures |= _figures(f"prototypes/{name}", found, features.classes)
            for side, clusters in found.clusters.items():
                steps = enumerate(clusters.objective)
                objectives |= {f"kmeans/{name}/{side}_objective_{step:02d}": value for step, value in steps}
        log_figures(module.trainer, self.figures | objectives, module.global_step)


def _figures(place: str, found: Prototypes, classes: Tensor) -> dict[str, float]:
    """Empty and largest cluster of each clustering, and its purity where the pairs have classes."""
    figures: dict[str, float] = {}
    for name, clusters in found.clusters.items():
        figures[f"{place}/{name}_empty"] = float((clusters.counts == 0).sum())
        figures[f"{place}/{name}_largest"] = float(clusters.counts.max())
        if bool((classes >= 0).all()):
            figures[f"{place}/{name}_purity"] = cluster_purity(clusters.labels, classes)
    return figures


def _data(trainer: pl.Trainer) -> ImageTextDataModule:
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(datamodule, ImageTextDataModule)
    return datamodule
