"""Projected features of an episode's pairs: extracted anew, or recorded in training at each pair's last visit."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from protoclip.distributed import gather, on_rank_zero
from protoclip.divergence import check_extracted
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import EpisodeFeatures, FeatureRecord
from protoclip.prototypes.record import Visits
from protoclip.terms import FeatureKey

Keys = tuple[FeatureKey, ...]


def extract(
    module: ImageTextPretraining,
    datamodule: ImageTextDataModule,
    episode: int,
    keys: Keys,
    positions: np.ndarray | None = None,
) -> EpisodeFeatures | None:
    """Features in eval mode, without gradient, the training augmentation under another draw.

    Args:
        module: the model; every part is left in the mode that it was in.
        datamodule: its data.
        episode: that begins.
        keys: the image and the text feature.
        positions: places in the episode, in order; None for all.

    Returns:
        Features on rank 0, None elsewhere.

    Raises:
        NonFiniteError: the features are not finite.
    """
    loader = datamodule.extraction_dataloader(episode, positions, {key.view for key in keys})
    shares = gather(_encode(module, loader, keys))
    shares = [share for share in shares if share]
    columns = {name: torch.cat([share[name] for share in shares]) for name in shares[0]} if shares else {}
    if columns:  # the lanes of a stream alternate between processes
        order = columns["positions"].argsort()
        columns = {name: column[order] for name, column in columns.items()}
    on_rank_zero(
        lambda: check_extracted(
            dict(zip(keys, (columns["image"], columns["text"]), strict=True)),
            step=module.global_step,
            episode=module.current_epoch,
            indices=columns["indices"],
            positions=columns["positions"],
        )
    )
    return EpisodeFeatures(**columns, episode_size=datamodule.plan.size) if columns else None


@torch.no_grad()
def _encode(module: ImageTextPretraining, loader: Iterable[Any], keys: Keys) -> dict[str, Tensor]:
    """Features and facts of this process' positions, nothing where it has none."""
    parts: list[dict[str, Tensor]] = []
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        for batch in module.clock.track("extraction", loader):
            moved = module.trainer.precision_plugin.convert_input(module.trainer.strategy.batch_to_device(batch))
            with module.trainer.precision_plugin.forward_context():
                image, text = (module.encode(key.tower, moved[key.view], {key.output})[key.output] for key in keys)
            parts.append(
                {
                    "image": image.float().cpu(),
                    "text": text.float().cpu(),
                    "indices": batch["index"],
                    "captions": batch["caption"],
                    "classes": batch["label"],
                    "positions": batch["position"],
                }
            )
    finally:
        for part, training in modes.items():  # train() would reach a locked tower
            part.training = training
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


class RecordedFeatures:
    """Features of each pair's last visit, kept by rank 0 and in the care of the checkpoints.

    Where a pair has several captions, the text feature is of the one that was drawn then, and so are a teacher's
    features of it; the label that comes of them is the pair's, whatever caption it is trained with now.

    Args:
        folder: of the record.
        fresh_share: part of an episode's pairs, those with the oldest records, that are extracted all the same.
    """

    def __init__(self, folder: str, fresh_share: float) -> None:
        self.folder = folder
        self.fresh_share = fresh_share
        self._record: FeatureRecord | None = None
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._visits: Visits | None = None

    def open(self, trainer: pl.Trainer, pairs: int, dim: int) -> None:
        """Start the record of a run, or go on as it was at the checkpoint that the trainer goes on from."""

        def opened() -> None:
            self._record = FeatureRecord(self.folder, pairs, dim, resumed=trainer.current_epoch > 0)
            self._record.forget_after(trainer.current_epoch - 1)

        on_rank_zero(opened)

    def keep(self, indices: Tensor, captions: Tensor, image: Tensor, text: Tensor) -> None:
        """Keep the features of a step's pairs."""
        self._steps.append((indices, captions, torch.stack([image, text], dim=1).half()))

    def end_episode(self, episode: int) -> None:
        """Make the episode's visits part of the state; the files get them once a checkpoint holds it."""
        shares = gather(tuple(torch.stack(column).cpu() for column in zip(*self._steps, strict=True)))
        self._steps.clear()
        if shares:  # step by step, each with the rows of all processes, so that the later visit is last
            self._visits = Visits(
                episode, *(torch.cat(column, dim=1).flatten(0, 1) for column in zip(*shares, strict=True))
            )

    def begin_episode(self) -> None:
        """Put the last episode's visits into the files."""
        if self._record is not None and self._visits is not None:
            self._record.write(self._visits)
        self._visits = None

    def recall(
        self, module: ImageTextPretraining, datamodule: ImageTextDataModule, episode: int, keys: Keys
    ) -> tuple[EpisodeFeatures | None, dict[str, float]]:
        """Recorded features of the pairs that were visited, fresh ones of the oldest share; figures of their age.

        Returns:
            On rank 0; elsewhere None and no figures.
        """
        positions = on_rank_zero(lambda: self._oldest(datamodule, episode))
        fresh = extract(module, datamodule, episode, keys, positions) if len(positions) else None
        if self._record is None:
            return None, {}
        indices = torch.from_numpy(datamodule.plan.indices(datamodule.plan.block(episode)))
        visited = self._record.visited(indices)
        recorded = visited >= 0
        recorded[torch.from_numpy(positions)] = False
        kept = recorded.nonzero().flatten()
        image, text = self._record.features(indices[kept])
        found = EpisodeFeatures(
            image=image,
            text=text,
            indices=indices[kept],
            captions=self._record.captions(indices[kept]),
            classes=_integers(datamodule.train.label(index) for index in indices[kept].tolist()),
            positions=kept,
            episode_size=len(indices),
        )
        ages = torch.cat([episode - visited[kept], torch.zeros(len(positions), dtype=torch.int64)])
        return (found if fresh is None else found.joined(fresh)), _age_figures(ages, len(positions), len(indices))

    def _oldest(self, datamodule: ImageTextDataModule, episode: int) -> np.ndarray:
        """Positions whose features are extracted, those of pairs never visited first, in order."""
        assert self._record is not None
        visited = self._record.visited(torch.from_numpy(datamodule.plan.indices(datamodule.plan.block(episode))))
        by_age = visited.sort(stable=True).indices.numpy()
        return np.sort(by_age[: round(self.fresh_share * len(visited))])

    def state_dict(self) -> dict[str, Any]:
        """The last episode's visits."""
        return {} if self._visits is None else self._visits._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after them."""
        self._visits = Visits(**state) if state else None


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _age_figures(ages: Tensor, fresh: int, episode_size: int) -> dict[str, float]:
    """Episodes since the features were made, and the shares of the episode that have any, and fresh ones."""
    figures = {"seen_percent": 100 * len(ages) / episode_size, "fresh_percent": 100 * fresh / episode_size}
    if len(ages):
        figures |= {"age_mean": float(ages.double().mean()), "age_max": float(ages.max())}
    return figures
