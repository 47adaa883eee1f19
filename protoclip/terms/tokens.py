"""Contrast between the tokens of images and texts."""

from typing import ClassVar

import torch
from torch import Tensor

from protoclip.distributed import all_gather, local_rows
from protoclip.losses import filip_loss
from protoclip.ranges import PositiveInt, Share
from protoclip.terms.base import FeatureKey, StepInputs, Term


class FILIP(Term):
    """Late interaction: InfoNCE over similarities of tokens at their best matches.

    Args:
        image: image view.
        text: text view.
        head: name of the heads that project tokens to unit vectors of one width.
        temperature: name of the shared temperature.
        block: samples whose tokens are compared at once, to bound memory at the price of computing them twice; None
            for all.
        keep_tokens: share of each sample's tokens that take part, those that match best; None for all.
        weight: factor in the total loss.

    Raises:
        ValueError: a share of 0.
    """

    contrastive: ClassVar[bool] = True

    def __init__(
        self,
        *,
        image: str = "image",
        text: str = "text",
        head: str = "filip",
        temperature: str = "filip",
        block: PositiveInt | None = None,
        keep_tokens: Share | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight, validates=True)
        if keep_tokens == 0:
            raise ValueError("keep_tokens=0 keeps no token: give a share above 0, or null for all")
        self.image = FeatureKey("image", image, head)
        self.text = FeatureKey("text", text, head)
        self.text_mask = FeatureKey("text", text, "token_mask")
        self.temperature = temperature
        self.block = block
        self.keep_tokens = keep_tokens

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return (self.image, self.text, self.text_mask)

    @property
    def temperatures(self) -> tuple[str, ...]:  # noqa: D102
        return (self.temperature,)

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        image, text, text_mask = (inputs.features[key] for key in self.required)
        rows = None
        if inputs.gathers:
            rows = local_rows(len(inputs.positions))
            image, text = all_gather(image), all_gather(text)
            text_mask = all_gather(text_mask.to(torch.uint8)).bool()
        loss = filip_loss(
            image,
            text,
            inputs.logit_scales[self.temperature],
            text_mask,
            rows=rows,
            block=self.block,
            keep_tokens=self.keep_tokens,
        )
        return {"loss": loss}
