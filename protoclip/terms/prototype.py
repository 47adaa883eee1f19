"""ProtoCLIP's prototype-level discrimination of both modalities."""

from typing import Literal

import torch
from torch import Tensor

from protoclip.distributed import total, world_size
from protoclip.losses import prototype_loss
from protoclip.prototypes import ABSENT, LEFT_OUT
from protoclip.ranges import PositiveFloat
from protoclip.terms.base import FeatureKey, StepInputs, Term


class Prototype(Term):
    """Mean of the two cross entropies of projected features against the episode's prototypes (ProtoCLIP, eq. 8).

    Args:
        image: image view.
        text: text view.
        head: name of the projection heads.
        bank: name of the prototype bank.
        temperature: name of the shared temperature.
        target_temperature: soft targets' temperature (0.01 in the paper), None for hard targets.
        empty: prototypes without members take part in the softmax as ``zero`` rows (the authors' code) or are left out
            (``mask``).
        weight: factor in the total loss.

    Raises:
        ValueError: an unknown choice for ``empty``.
    """

    def __init__(
        self,
        *,
        image: str = "image",
        text: str = "text",
        head: str = "prototype",
        bank: str = "prototype",
        temperature: str = "prototype",
        target_temperature: PositiveFloat | None = 0.01,
        empty: Literal["zero", "mask"] = "zero",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if empty not in {"zero", "mask"}:
            raise ValueError(f"prototype.empty is zero or mask, not {empty!r}")
        self.keys = {"image": FeatureKey("image", image, head), "text": FeatureKey("text", text, head)}
        self.bank = bank
        self.temperature = temperature
        self.target_temperature = target_temperature
        self.empty = empty

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return tuple(self.keys.values())

    @property
    def temperatures(self) -> tuple[str, ...]:  # noqa: D102
        return (self.temperature,)

    @property
    def banks(self) -> tuple[str, ...]:  # noqa: D102
        return (self.bank,)

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        losses, results = [], {}
        for modality in self.keys:
            loss, results[f"{modality}_accuracy"] = self._discriminate(modality, inputs)
            losses.append(loss)
        return {"loss": torch.stack(losses).mean(), **results}

    def _discriminate(self, modality: str, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of one modality.

        Nothing to gather: prototypes are constants and every process has them all, so rows do not meet each other.
        """
        bank, student = inputs.banks[self.bank], inputs.features[self.keys[modality]]
        scale = inputs.logit_scales[self.temperature]
        labels, side = bank.labels(modality, inputs.positions, inputs.block), bank.side(modality)
        share, valid = torch.ones(()), side.counts > 0 if self.empty == "mask" else None
        if bool(bank.partial):
            kept = labels != LEFT_OUT
            student, labels, share = student[kept], labels[kept], _share(kept)
            valid = side.counts != ABSENT if valid is None else valid
            if not len(labels):
                return 0.0 * (student.sum() + scale), torch.zeros(())
        loss = prototype_loss(
            student,
            side.prototypes,
            scale,
            labels,
            teacher_centroids=side.centroids if self.target_temperature is not None else None,
            target_temperature=self.target_temperature,
            valid=valid,
        )
        return share * loss, share * _accuracy(student, side.prototypes, labels)


def _share(kept: Tensor) -> Tensor:
    """What the local mean over rows weighs in the mean over the kept rows of all processes."""
    count = kept.sum()
    everywhere = total(count, kept.device) if world_size() > 1 else count
    return count * world_size() / everywhere.clamp(min=1)


@torch.no_grad()
def _accuracy(student: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """Percent of samples whose nearest prototype (by dot product) is their label's."""
    nearest = (student @ prototypes.to(student.dtype).T).argmax(dim=1)
    return 100 * (nearest == labels).float().mean()
