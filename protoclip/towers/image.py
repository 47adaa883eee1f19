"""The image tower: an open_clip ``visual`` module that also gives its pooled state and its tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Encoded(NamedTuple):
    """What one pass through a backbone yields: tokens [B, n, w_t], pooled [B, w_p], embedding [B, d]."""

    tokens: Tensor
    pooled: Tensor
    embedding: Tensor


def unit(embedding: Tensor) -> Tensor:
    """L2-normalise rows in float32 (float64 stays): half precision would cost the cosine its third digit."""
    return F.normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)), dim=-1)


class ImageTower(nn.Module):
    """Wraps open_clip's ``ModifiedResNet``, ``VisionTransformer`` or ``TimmModel``; parameters stay named ``visual.*``.

    Attributes:
        pooled_dim: Width of the state before the projection.
        token_dim: Width of the tokens.
        embed_dim: Width of the joint space.
        image_size: Side of the square input, in pixels.
        mean: Per-channel mean that the input is normalised with; RGB in 0..1.
        std: Per-channel standard deviation, likewise.
    """

    def __init__(self, visual: Any, embed_dim: int, regions: nn.Module | None = None) -> None:
        """Wrap a module built by ``open_clip.create_model``.

        Args:
            visual: ``visual`` of an open_clip model.
            embed_dim: Width of its output.
            regions: The entrance of regions, see ``protoclip.towers.regions``; None for a tower that reads none.

        Raises:
            ValueError: For a backbone of another kind, or one for pictures that are not square.
        """
        super().__init__()
        self.visual = visual
        self.regions = regions
        self.embed_dim = embed_dim
        self._encode, self.token_dim, self.pooled_dim = _reader(visual)
        self.mean: tuple[float, ...] = tuple(visual.preprocess_cfg["mean"])
        self.std: tuple[float, ...] = tuple(visual.preprocess_cfg["std"])
        size = visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise ValueError(f"image_size must be one side of a square, the tower's config has {height} x {width}")
        self.image_size = int(height)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Encode normalised pictures, or regions of them.

        Args:
            images: [B, 3, image_size, image_size]; regions are [B, boxes, roi_dim], absent ones rows of zeros.

        Returns:
            ``tokens`` [B, n, token_dim]: a ResNet's layer4 positions, a ViT's patches before ln_post without the class
            token, timm's last feature map; ``pooled`` [B, pooled_dim], for a ResNet the mean of its tokens;
            ``embedding`` [B, embed_dim], open_clip's ``encode_image``; ``features``, the same at unit length. Regions
            have no ``tokens``, and all zeros where a picture has no region.

        Raises:
            ValueError: For regions in a tower that reads none.
        """
        if images.ndim == 3:
            if self.regions is None:
                raise ValueError("the image tower reads no regions; set towers.roi_dim to their width")
            pooled, embedding = self.regions(self.visual, images)
            return {"pooled": pooled, "embedding": embedding, "features": unit(embedding)}
        tokens, pooled, embedding = self._encode(self.visual, images)
        return {"pooled": pooled, "embedding": embedding, "features": unit(embedding), "tokens": tokens}


def _reader(visual: Any) -> tuple[Callable[[Any, Tensor], Encoded], int, int]:
    """The function that reads a backbone, its token width and its pooled width."""
    import open_clip  # noqa: PLC0415 - takes seconds

    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        width = visual.attnpool.k_proj.in_features
        return _encode_resnet, width, width
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return _encode_vit, visual.transformer.width, visual.ln_post.normalized_shape[0]
    if isinstance(visual, open_clip.timm_model.TimmModel):
        return _encode_timm, visual.trunk.num_features, _timm_pooled_dim(visual)
    raise ValueError(f"no image tower for {type(visual).__name__}; use an open_clip ResNet, ViT or timm model")


def _timm_pooled_dim(visual: Any) -> int:
    if _pools_in_head(visual):
        return int(visual.trunk.num_features)
    width = int(visual.trunk.head_hidden_size)
    projection = getattr(visual.head, "proj", None)
    if projection is not None and projection.in_features != width:
        # open_clip's adapter would build and then fail at the first picture
        raise ValueError(
            "this timm model has a hidden layer in its head; set vision_cfg timm_proj='' and timm_pool='avg'"
        )
    return width


def _encode_resnet(visual: Any, images: Tensor) -> Encoded:
    grid = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        grid = layer(grid)
    tokens = grid.flatten(2).transpose(1, 2)
    return Encoded(tokens, tokens.mean(dim=1), visual.attnpool(grid))


def _encode_vit(visual: Any, images: Tensor) -> Encoded:
    # open_clip's public forward_intermediates gives these tokens but not the pooled state
    states = visual.transformer(visual._embeds(images))
    return Encoded(states[:, 1:], *project_vit(visual, states))


def project_vit(visual: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """The pooled state [B, w_p] and the embedding [B, d] of the last block's states."""
    pooled, _ = visual._pool(states)
    return pooled, pooled if visual.proj is None else pooled @ visual.proj


def _encode_timm(visual: Any, images: Tensor) -> Encoded:
    trunk = visual.trunk
    states = trunk.forward_features(images)
    out = trunk.forward_head(states)
    embedding = visual.head(out)
    if states.ndim == 4:
        channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        tokens = states.flatten(1, 2) if channels_last else states.flatten(2).transpose(1, 2)
    else:
        tokens = states[:, getattr(trunk, "num_prefix_tokens", 0) :]
    if _pools_in_head(visual):
        return Encoded(tokens, tokens.mean(dim=1), embedding)
    # a trunk whose own classifier is the projection gives its pooled state only when asked
    pooled = out if trunk.num_classes == 0 else trunk.forward_head(states, pre_logits=True)
    return Encoded(tokens, pooled, embedding)


def _pools_in_head(visual: Any) -> bool:
    """Whether open_clip's adapter pools (``abs_attn``, ``rot_attn``): the trunk then hands over its whole map."""
    return hasattr(visual.head, "pool")
