"""Learnable temperatures, and biases of logits, shared by name between terms."""

import math

import torch
from torch import Tensor, nn

from protoclip.ranges import PositiveFloat


class Temperature(nn.Module):
    """A learnable inverse temperature ``logit_scale = exp(log_scale)``, with a learnable bias where one is wanted.

    Args:
        init: first temperature, 0.07 as in CLIP.
        max_scale: the scale is clamped to [1, max_scale] after each step, 100 as in CLIP.
        bias: first bias of the logits, -10 in SigLIP; None has none.
    """

    def __init__(self, init: PositiveFloat = 0.07, max_scale: PositiveFloat = 100.0, bias: float | None = None) -> None:
        super().__init__()
        self.max_log_scale = math.log(max_scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / init)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def forward(self) -> Tensor:
        """The scale, a scalar with gradient."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Put the parameter back into its range; called after each optimizer step."""
        self.log_scale.clamp_(0.0, self.max_log_scale)
