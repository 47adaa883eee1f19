"""Learning from an external teacher's features as they are, the controls of prototypes made of them (after CLIP-KD)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from protoclip.distributed import all_gather, local_rows
from protoclip.losses import affinity_distillation_loss, feature_distillation_loss
from protoclip.ranges import PositiveFloat
from protoclip.terms.base import FeatureKey, StepInputs, Term

MODALITIES = ("image", "text")


class FeatureDistillation(Term):
    """Mean squared distance of mapped embeddings to the teacher's features of their pair.

    Args:
        teacher: name of the external teacher.
        image: image view.
        text: text view.
        head: name of the heads that map an embedding into the teacher's space, not normalised.
        modality: the one that learns from the teacher; None for both, at the mean of their losses.
        weight: factor in the total loss.

    Raises:
        ValueError: an unknown modality.
    """

    def __init__(
        self,
        teacher: str,
        *,
        image: str = "image",
        text: str = "text",
        head: str = "distillation",
        modality: Literal["image", "text"] | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if modality not in {*MODALITIES, None}:
            raise ValueError(f"distillation.modality is image, text or null, not {modality!r}")
        views = {"image": image, "text": text}
        self.keys = [FeatureKey(tower, views[tower], head) for tower in MODALITIES if modality in {tower, None}]
        self.teacher = teacher

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return tuple(self.keys)

    @property
    def teachers(self) -> tuple[str, ...]:  # noqa: D102
        return (self.teacher,)

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        teacher = inputs.teachers[self.teacher]
        # Nothing to gather: a row meets its own teacher's alone
        losses = [feature_distillation_loss(inputs.features[key], teacher) for key in self.keys]
        return {"loss": torch.stack(losses).mean()}


class AffinityDistillation(Term):
    """Cross entropy of image-text contrast against the teacher's similarities between the pairs of the batch.

    Args:
        teacher: name of the external teacher.
        image: image view.
        text: text view.
        temperature: name of the shared temperature of the contrast.
        teacher_temperature: of the teacher's similarities.
        weight: factor in the total loss.
    """

    contrastive: ClassVar[bool] = True

    def __init__(
        self,
        teacher: str,
        *,
        image: str = "image",
        text: str = "text",
        temperature: str = "distillation",
        teacher_temperature: PositiveFloat = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.image = FeatureKey("image", image, "features")
        self.text = FeatureKey("text", text, "features")
        self.teacher = teacher
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return (self.image, self.text)

    @property
    def temperatures(self) -> tuple[str, ...]:  # noqa: D102
        return (self.temperature,)

    @property
    def teachers(self) -> tuple[str, ...]:  # noqa: D102
        return (self.teacher,)

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        image, text = inputs.features[self.image], inputs.features[self.text]
        teacher, rows = inputs.teachers[self.teacher], None
        if inputs.gathers:
            rows = local_rows(len(inputs.positions))
            image, text, teacher = all_gather(image), all_gather(text), all_gather(teacher)
        scale = inputs.logit_scales[self.temperature]
        temperature = self.teacher_temperature
        loss = affinity_distillation_loss(image, text, teacher, scale, teacher_temperature=temperature, rows=rows)
        return {"loss": loss}
