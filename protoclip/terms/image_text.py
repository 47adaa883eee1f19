"""Image-text contrast over any list of view pairs: CLIP's loss for one pair."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from protoclip.distributed import all_gather, local_rows
from protoclip.losses import clip_loss
from protoclip.ranges import Share
from protoclip.terms.base import FeatureKey, StepInputs, Term


class ImageText(Term):
    """Mean symmetric InfoNCE over pairs of an image view and a text view.

    Args:
        pairs: names ``[image view, text view]``, at least one pair.
        temperature: name of the shared temperature.
        label_smoothing: PyramidCLIP's softening, 0 for CLIP.
        smoothing: its form, see ``clip_loss``.
        weight: factor in the total loss.

    Raises:
        ValueError: no pairs.
    """

    def __init__(
        self,
        pairs: Sequence[Sequence[str]],
        *,
        temperature: str = "clip",
        label_smoothing: Share = 0.0,
        smoothing: Literal["negatives", "literal", "uniform"] = "negatives",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight, validates=True)
        if not pairs:
            raise ValueError("an image_text term needs pairs, such as [[image, text]]")
        self.pairs = [
            (FeatureKey("image", image, "features"), FeatureKey("text", text, "features")) for image, text in pairs
        ]
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.smoothing = smoothing

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return tuple(key for pair in self.pairs for key in pair)

    @property
    def temperatures(self) -> tuple[str, ...]:  # noqa: D102
        return (self.temperature,)

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        features, rows = inputs.features, None
        if inputs.gathers:  # each feature once, and in an order that all processes share
            rows = local_rows(len(inputs.positions))
            features = {key: all_gather(features[key]) for key in dict.fromkeys(self.required)}
        losses = [
            clip_loss(
                features[image],
                features[text],
                inputs.logit_scales[self.temperature],
                label_smoothing=self.label_smoothing,
                smoothing=self.smoothing,
                rows=rows,
            )
            for image, text in self.pairs
        ]
        return {"loss": torch.stack(losses).mean()}
