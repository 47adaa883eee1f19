"""A loss, or features to cluster, that are not finite stop a run before its weights change."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protoclip.distributed import total
from protoclip.terms import FeatureKey

MEND = "lower optimizer.optimizer.lr, lengthen optimizer.schedule.warmup, or set trainer.precision=32-true"


@dataclass(eq=False)
class NonFiniteError(ValueError):
    """The loss of a step, or features of a refresh, are not finite; the weights are those of the step before.

    Attributes:
        step: of the run, from 0.
        episode: of the run, from 0.
        terms: loss by active term; empty in a refresh.
        features: those that are not finite, as tower/view/output.
        indices: of the pairs in the corpus: the batch's, or those with such features in a refresh.
        positions: of the same pairs in the episode.
        checkpoint: file with the state, if one was written.
    """

    step: int
    episode: int
    terms: dict[str, float]
    features: list[str]
    indices: list[int]
    positions: list[int]
    checkpoint: Path | None = None

    def __str__(self) -> str:
        what = "loss is" if self.terms else "extracted features are"
        terms = [f"{name} {value:.6g}" for name, value in self.terms.items()]
        features = [f"not finite: {', '.join(self.features) or 'no feature'}"]
        state = [f"state in {self.checkpoint}"] if self.checkpoint else []
        told = "; ".join([*terms, *features, *state])
        return f"the {what} not finite at step {self.step} of episode {self.episode} ({told}): {MEND}"

    def facts(self) -> dict[str, Any]:
        """All of it as plain types, which a checkpoint can hold."""
        names = ("step", "episode", "terms", "features", "indices", "positions")
        return {name: getattr(self, name) for name in names}


def check_loss(
    loss: Tensor,
    figures: Mapping[str, Tensor | float],
    features: Mapping[FeatureKey, Tensor],
    batch: Mapping[str, Tensor],
    step: int,
) -> None:
    """Look at the loss of a training step, which must come before its gradient.

    Args:
        loss: weighted sum of the terms.
        figures: of the step; those called ``<term>_loss`` are the terms'.
        features: of the batch.
        batch: with the pairs' ``index``, ``position`` and ``episode``.
        step: of the run.

    Raises:
        NonFiniteError: with what is not finite.
    """
    if not bool(total(~torch.isfinite(loss), loss.device)):  # all processes stop, or none
        return
    suffix = "_loss"
    raise NonFiniteError(
        step=step,
        episode=int(batch["episode"][0]),
        terms={name.removesuffix(suffix): float(value) for name, value in figures.items() if name.endswith(suffix)},
        features=[_name(key) for key, value in features.items() if not bool(torch.isfinite(value).all())],
        indices=batch["index"].tolist(),
        positions=batch["position"].tolist(),
    )


def check_extracted(
    features: Mapping[FeatureKey, Tensor], *, step: int, episode: int, indices: Tensor, positions: Tensor
) -> None:
    """Look at the features of an episode, before anything is clustered.

    Args:
        features: [pairs, dim].
        step: next step of the run.
        episode: that begins.
        indices: of the pairs in the corpus [pairs].
        positions: of the pairs in the episode [pairs].

    Raises:
        NonFiniteError: with the features and pairs.
    """
    wrong = {key: ~torch.isfinite(value).all(dim=1) for key, value in features.items()}
    pairs = torch.stack(list(wrong.values())).any(dim=0)
    if bool(pairs.any()):
        names = [_name(key) for key, rows in wrong.items() if bool(rows.any())]
        raise NonFiniteError(step, episode, {}, names, indices[pairs].tolist(), positions[pairs].tolist())


def _name(key: FeatureKey) -> str:
    return f"{key.tower}/{key.view}/{key.output}"
