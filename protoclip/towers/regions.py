"""Regions of a picture, as a detector describes them, on their way through an image tower (PyramidCLIP, section 3.2).

They enter half-way: a ResNet's attention pool or a ViT's last blocks read them with the weights that read pictures, but
without positional embedding.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoclip.towers.image import project_vit
from protoclip.towers.leff import LeFF

ClassToken = Literal["learned", "mean", "shared"]


class Regions(nn.Module, ABC):
    """Maps regions linearly to an image tower's width, puts a class token in front, and has the tower read them."""

    def __init__(self, roi_dim: int, width: int, class_token: ClassToken) -> None:
        """Build the entrance.

        Args:
            roi_dim: Width of a region.
            width: Width of what the tower reads.
            class_token: ``learned``: one of its own; ``mean``: of the mapped regions; ``shared``: the ViT's.

        Raises:
            ValueError: For another class token.
        """
        super().__init__()
        if class_token not in get_args(ClassToken):
            raise ValueError(f"roi_class_token is one of {', '.join(get_args(ClassToken))}, not {class_token!r}")
        self.projection = nn.Linear(roi_dim, width, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5) if class_token == "learned" else None
        self.shared = class_token == "shared"

    def forward(self, visual: Any, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode each picture's regions as one.

        Args:
            visual: The open_clip module of the image tower.
            regions: [B, boxes, roi_dim]; rows of zeros are boxes that are not there.

        Returns:
            ``pooled`` [B, pooled_dim] and ``embedding`` [B, embed_dim], zero where there is no box.
        """
        present = (regions != 0).any(dim=-1)
        boxes = self.projection(regions)
        if self.shared:
            first = visual.class_embedding.expand(len(boxes), -1)
        elif self.class_token is not None:
            first = self.class_token.expand(len(boxes), -1)
        else:
            first = mean_where(boxes, present)
        states = torch.cat([first[:, None].to(boxes.dtype), boxes], dim=1)
        pooled, embedding = self._read(visual, states, F.pad(present, (1, 0), value=True))
        empty = ~present.any(dim=1, keepdim=True)
        return pooled.masked_fill(empty, 0), embedding.masked_fill(empty, 0)

    @abstractmethod
    def _read(self, visual: Any, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled state and the embedding of a class token and boxes [B, 1 + boxes, width]; mask: True = there."""


class ResNetRegions(Regions):
    """Regions for a ``ModifiedResNet``: a LayerNorm of their own, the attention pool; pooled is the boxes' mean."""

    def __init__(self, visual: Any, roi_dim: int, class_token: ClassToken = "learned") -> None:
        """Build the entrance for a tower, see ``Regions``."""
        if class_token == "shared":
            raise ValueError("a ResNet has no class token to share; set roi_class_token to learned or mean")
        width = visual.attnpool.k_proj.in_features
        super().__init__(roi_dim, width, class_token)
        self.norm = nn.LayerNorm(width)

    def _read(self, visual: Any, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        pool, states = visual.attnpool, self.norm(states)
        heads = (pool.num_heads, -1)
        query = pool.q_proj(states[:, :1]).unflatten(2, heads).transpose(1, 2)
        keys, values = (layer(states).unflatten(2, heads).transpose(1, 2) for layer in (pool.k_proj, pool.v_proj))
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask[:, None, None])
        return mean_where(states[:, 1:], mask[:, 1:]), pool.c_proj(attended.flatten(1))


class ViTRegions(Regions):
    """Regions for a ``VisionTransformer``: its ln_pre, its last blocks, ln_post and projection."""

    def __init__(self, visual: Any, roi_dim: int, class_token: ClassToken = "learned", blocks: int = 3) -> None:
        """Build the entrance for a tower, see ``Regions``.

        Args:
            visual: The open_clip module of the image tower.
            roi_dim: Width of a region.
            class_token: As of ``Regions``.
            blocks: How many of the last blocks read regions.
        """
        super().__init__(roi_dim, visual.transformer.width, class_token)
        self.blocks = blocks
        layers = visual.transformer.resblocks
        plain = len(layers) - sum(isinstance(layer.mlp, LeFF) for layer in layers)
        if not 1 <= blocks <= plain:
            raise ValueError(
                f"roi_blocks={blocks} of {len(layers)} blocks, {len(layers) - plain} with LeFF: set it to 1 to {plain}"
            )
        if visual.attn_pool is not None or visual.pool_type != "tok":
            raise ValueError("regions are pooled at the class token: set roi_dim=null, or vision_cfg pool_type='tok'")

    def _read(self, visual: Any, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        blocks = visual.transformer.resblocks[-self.blocks :]
        # the blocks take a mask of each head's queries and keys, to be added
        added = torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, float("-inf"))
        added = added[:, None].expand(-1, mask.shape[1], -1).repeat_interleave(blocks[0].attn.num_heads, dim=0)
        states = visual.ln_pre(states)
        for block in blocks:
            states = block(states, attn_mask=added)
        return project_vit(visual, states)


def create_regions(visual: Any, roi_dim: int, class_token: ClassToken, blocks: int) -> Regions:
    """The entrance of regions into a tower; ``blocks`` is for a ViT.

    Raises:
        ValueError: For a tower that cannot read regions as asked.
    """
    if hasattr(visual, "attnpool"):
        return ResNetRegions(visual, roi_dim, class_token)
    if hasattr(visual, "transformer"):
        return ViTRegions(visual, roi_dim, class_token, blocks)
    raise ValueError("a timm image tower reads no regions; set roi_dim=null, or use an open_clip ResNet or ViT")


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values [B, n, width] where the mask [B, n] is True; zero where it never is."""
    kept = mask[:, :, None].to(values.dtype)
    return (values * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
