"""The episodic prototype refresh of ProtoCLIP (section III-D).

At the start of an episode, before its first step: extract the projected features of all its pairs (eval mode, no
gradient, the training augmentation under another draw), cluster them per modality, translate the clusters back into
each student's space, and write labels and prototypes into the bank. Nothing of the data set changes. Of several
processes each extracts its share; rank 0 clusters once, and its bank becomes everyone's.
"""

from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from callbacks.figures import log_figures
from datamodules.datamodule import ImageTextDataModule
from protoclip.distributed import broadcast_buffers, gather, on_rank_zero
from protoclip.divergence import check_extracted
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import Clusters, KMeans, PrototypeBank, assign_prototypes
from protoclip.seeds import derive_seed
from protoclip.terms import Term

Share = tuple[Tensor, Tensor, Tensor]


class PrototypeRefresh(Callback):
    """Renews the bank of one prototype term whenever a new block of episodes begins.

    Args:
        term: name of the prototype term; its head, views and bank are used.
        labels: ``kmeans``, ``shuffled`` or ``oracle``, see ``assign_prototypes``.
        source: ``cross``, ``same`` or ``joint``.
        back_translation: PBT, or the teacher's centroids as they are.
        cluster: K-means with its options.
        seed: of the clusterings.
    """

    def __init__(
        self,
        *,
        term: str = "prototype",
        labels: Literal["kmeans", "shuffled", "oracle"] = "kmeans",
        source: Literal["cross", "same", "joint"] = "cross",
        back_translation: bool = True,
        cluster: KMeans | None = None,
        seed: int = 0,
    ) -> None:
        self.term = term
        self.labels = labels
        self.source = source
        self.back_translation = back_translation
        self.cluster = cluster or KMeans()
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refresh if the term is active and its bank is of another block."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, ImageTextPretraining)
        assert isinstance(datamodule, ImageTextDataModule)
        episode = trainer.current_epoch
        bank = self._bank(pl_module)
        block = datamodule.plan.block(episode)
        if pl_module.active_weights(episode)[self.term] and int(bank.block) != block:
            self._refresh(pl_module, datamodule, bank, episode, block)

    def _bank(self, module: ImageTextPretraining) -> PrototypeBank:
        bank = module.banks[self._term(module).banks[0]]
        assert isinstance(bank, PrototypeBank)
        return bank

    def _term(self, module: ImageTextPretraining) -> Term:
        term = module.terms[self.term]
        assert isinstance(term, Term)
        return term

    def _refresh(
        self,
        module: ImageTextPretraining,
        datamodule: ImageTextDataModule,
        bank: PrototypeBank,
        episode: int,
        block: int,
    ) -> None:
        shares = gather(self._extract(module, datamodule, episode))
        indices = datamodule.plan.indices(block)
        on_rank_zero(lambda: self._renew(module, bank, block, indices, shares))
        broadcast_buffers(bank)

    def _renew(
        self, module: ImageTextPretraining, bank: PrototypeBank, block: int, indices: np.ndarray, shares: list[Share]
    ) -> None:
        """Cluster the shares of all processes, which are in the order of the positions."""
        image_features, text_features, classes = (torch.cat(column) for column in zip(*shares, strict=True))
        extracted = dict(zip(self._term(module).required, (image_features, text_features), strict=True))
        check_extracted(extracted, step=module.global_step, episode=module.current_epoch, indices=indices)
        prototypes = assign_prototypes(
            image_features,
            text_features,
            bank.num_prototypes,
            labels=self.labels,
            source=self.source,
            back_translation=self.back_translation,
            true_labels=classes,
            cluster=self.cluster,
            seed=derive_seed(self.seed, "prototypes", block) % 2**31,
            phase=module.clock.phase,
        )
        bank.write(block, prototypes.image, prototypes.text)
        self._log(module, prototypes.clusters)

    @torch.no_grad()
    def _extract(self, module: ImageTextPretraining, datamodule: ImageTextDataModule, episode: int) -> Share:
        """Projected image and text features of this process' positions, float32 on the CPU, and the pairs' classes."""
        parts: list[tuple[Tensor, ...]] = []
        module.eval()
        try:
            for batch in module.clock.track("extraction", datamodule.extraction_dataloader(episode)):
                moved = module.trainer.precision_plugin.convert_input(module.trainer.strategy.batch_to_device(batch))
                with module.trainer.precision_plugin.forward_context():
                    features = module(moved)
                parts.append((*(features[key].float().cpu() for key in self._term(module).required), batch["label"]))
        finally:
            module.train()
        image_features, text_features, classes = (torch.cat(column) for column in zip(*parts, strict=True))
        return image_features, text_features, classes

    def _log(self, module: ImageTextPretraining, clusters: dict[str, Clusters]) -> None:
        """Empty and largest cluster, and the objective at each iteration."""
        figures: dict[str, float] = {}
        for name, found in clusters.items():
            figures[f"prototypes/{name}_empty"] = float((found.counts == 0).sum())
            figures[f"prototypes/{name}_largest"] = float(found.counts.max())
            figures |= {f"kmeans/{name}_objective_{step:02d}": value for step, value in enumerate(found.objective)}
        log_figures(module.trainer, figures, module.global_step)
