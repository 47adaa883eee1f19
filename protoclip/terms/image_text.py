"""Image-text contrast over any list of view pairs: CLIP's loss for one pair."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from protoclip.distributed import all_gather, local_rows
from protoclip.losses import clip_loss, sigmoid_loss
from protoclip.ranges import Share
from protoclip.terms.base import FeatureKey, StepInputs, Term, present


class ImageText(Term):
    """Mean contrast over pairs of an image view and a text view; a pair of views that misses one stays out.

    Args:
        pairs: names ``[image view, text view]``, at least one pair.
        temperature: name of the shared temperature.
        loss: ``softmax`` is CLIP's symmetric InfoNCE, ``sigmoid`` SigLIP's, which needs a temperature with a bias.
        label_smoothing: PyramidCLIP's softening, 0 for CLIP.
        smoothing: its form, see ``clip_loss``.
        weight: factor in the total loss.

    Raises:
        ValueError: no pairs, an unknown loss, or a sigmoid loss with smoothing.
    """

    contrastive: ClassVar[bool] = True

    def __init__(
        self,
        pairs: Sequence[Sequence[str]],
        *,
        temperature: str = "clip",
        loss: Literal["softmax", "sigmoid"] = "softmax",
        label_smoothing: Share = 0.0,
        smoothing: Literal["negatives", "literal", "uniform"] = "negatives",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight, validates=True)
        if not pairs:
            raise ValueError("an image_text term needs pairs, such as [[image, text]]")
        if loss not in {"softmax", "sigmoid"}:
            raise ValueError(f"image_text.loss is softmax or sigmoid, not {loss!r}")
        if loss == "sigmoid" and label_smoothing:
            raise ValueError("the sigmoid loss has no targets to smooth: set image_text.label_smoothing=0")
        self.pairs = [
            (FeatureKey("image", image, "features"), FeatureKey("text", text, "features")) for image, text in pairs
        ]
        self.temperature = temperature
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.smoothing = smoothing

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return tuple(key for pair in self.pairs for key in pair)

    @property
    def temperatures(self) -> tuple[str, ...]:  # noqa: D102
        return (self.temperature,)

    @property
    def biases(self) -> tuple[str, ...]:  # noqa: D102
        return (self.temperature,) if self.loss == "sigmoid" else ()

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        features, rows = inputs.features, None
        if inputs.gathers:  # each feature once, and in an order that all processes share
            rows = local_rows(len(inputs.positions))
            features = {key: all_gather(features[key]) for key in dict.fromkeys(self.required)}
        losses = [self._contrast(features[image], features[text], inputs, rows) for image, text in self.pairs]
        return {"loss": torch.stack(losses).mean()}

    def _contrast(self, image: Tensor, text: Tensor, inputs: StepInputs, rows: slice | None) -> Tensor:
        scale, valid = inputs.logit_scales[self.temperature], present(image, text)
        if self.loss == "sigmoid":
            bias = inputs.logit_biases[self.temperature]
            return sigmoid_loss(image, text, scale, bias, rows=rows, valid=valid)
        return clip_loss(
            image,
            text,
            scale,
            label_smoothing=self.label_smoothing,
            smoothing=self.smoothing,
            rows=rows,
            valid=valid,
        )
