"""Convolutions between a ViT's patches: the locally-enhanced feed-forward of PyramidCLIP's image tower."""

from typing import Any

import torch
from torch import Tensor, nn


class LeFF(nn.Module):
    """Takes the place of a block's MLP: a depth-wise convolution mixes neighbouring patches between its linear layers.

    Linear, depth-wise 3 x 3 and Linear are each followed by BatchNorm and QuickGELU (CeiT, https://arxiv.org/abs/2103.11816;
    PyramidCLIP, section 4.1). The class token passes through. Under gradient checkpointing the running statistics see
    each batch twice, as the forward pass is repeated.
    """

    def __init__(self, mlp: Any, grid: tuple[int, int]) -> None:
        """Build from the MLP that it replaces.

        Args:
            mlp: ``mlp`` of an open_clip block, whose linear layers it keeps.
            grid: Rows and columns of patches.
        """
        from open_clip.transformer import QuickGELU  # noqa: PLC0415 - takes seconds

        super().__init__()
        self.c_fc, self.c_proj = mlp.c_fc, mlp.c_proj
        hidden, width = self.c_fc.out_features, self.c_proj.out_features
        self.norm_fc = nn.BatchNorm1d(hidden)
        self.conv = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden, bias=False)
        self.norm_conv = nn.BatchNorm2d(hidden)
        self.norm_proj = nn.BatchNorm1d(width)
        self.act = QuickGELU()
        self.grid = grid

    def forward(self, states: Tensor) -> Tensor:
        """Map the class token and the patches [B, 1 + rows * columns, width]."""
        hidden = self.act(self.norm_fc(self.c_fc(states[:, 1:]).transpose(1, 2)))
        hidden = self.act(self.norm_conv(self.conv(hidden.unflatten(2, self.grid))))
        patches = self.act(self.norm_proj(self.c_proj(hidden.flatten(2).transpose(1, 2)).transpose(1, 2)))
        return torch.cat([states[:, :1], patches.transpose(1, 2)], dim=1)


def insert_leff(visual: Any, blocks: int) -> None:
    """Put a LeFF in the place of the MLP in a ViT's first blocks.

    Args:
        visual: An open_clip ``VisionTransformer``.
        blocks: How many.

    Raises:
        ValueError: For another tower, for more blocks than it has, and without the whole square of patches.
    """
    if not hasattr(visual, "transformer"):
        raise ValueError("LeFF is for open_clip's ViTs; set leff_blocks=0 with a ResNet or timm model")
    layers = visual.transformer.resblocks
    if blocks > len(layers):
        raise ValueError(f"leff_blocks={blocks} is more than the tower's {len(layers)} blocks: set it to {len(layers)}")
    rows, columns = visual.grid_size
    if rows != columns:
        raise ValueError(f"LeFF needs a square of patches, not {rows} x {columns}: set image_size or leff_blocks=0")
    if not isinstance(visual.patch_dropout, nn.Identity):
        raise ValueError("LeFF needs all patches: leave patch_dropout out of vision_cfg, or set leff_blocks=0")
    for layer in layers[:blocks]:
        layer.mlp = LeFF(layer.mlp, (rows, columns))
