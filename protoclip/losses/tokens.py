"""Contrast between the tokens of images and texts (FILIP, https://arxiv.org/abs/2111.07783)."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def token_similarity(
    image_tokens: Tensor,
    text_tokens: Tensor,
    text_mask: Tensor | None = None,
    *,
    image_mask: Tensor | None = None,
    block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean over a sample's tokens of their best match among the tokens of another.

    Args:
        image_tokens: unit vectors [images, image_length, dim].
        text_tokens: unit vectors [texts, text_length, dim].
        text_mask: bool [texts, text_length], True for a real token, at least one in a text; None for all.
        image_mask: likewise of the images.
        block: samples whose tokens are compared at once; None for all.

    Returns:
        Image to text [images, texts] and text to image [texts, images], which are not transposes of each other.
    """
    texts, images = _all_real(text_tokens, text_mask), _all_real(image_tokens, image_mask)
    to_text = _best_matches(image_tokens, images, text_tokens, texts, block)
    return to_text, _best_matches(text_tokens, texts, image_tokens, images, block)


def filip_loss(
    image_tokens: Tensor,
    text_tokens: Tensor,
    logit_scale: Tensor,
    text_mask: Tensor | None = None,
    *,
    image_mask: Tensor | None = None,
    rows: slice | None = None,
    block: int | None = None,
    keep_tokens: float | None = None,
) -> Tensor:
    """Symmetric InfoNCE over token-wise similarities, each direction with its own.

    Args:
        image_tokens: unit vectors [batch, image_length, dim].
        text_tokens: unit vectors [batch, text_length, dim]; row i belongs to image i.
        logit_scale: scalar, 1 / temperature.
        text_mask: bool [batch, text_length], True for a real token, at least one in a text; None for all.
        image_mask: likewise of the images.
        rows: the anchors among the rows; None for all.
        block: anchors whose similarities are computed at once, and again in the backward pass, so that memory is that
            of a block; None for all.
        keep_tokens: share of each sample's real tokens that take part, rounded up: those whose best match over all
            samples of the other modality is best. None for all.

    Returns:
        Scalar, the mean of the image-to-text and text-to-image cross entropies.

    Raises:
        ValueError: rows that do not match, a block below 1, or a share outside (0, 1].
    """
    if block is not None and block < 1:
        raise ValueError(f"block is 1 or more, not {block}")
    if keep_tokens is not None and not 0 < keep_tokens <= 1:
        raise ValueError(f"keep_tokens is a share of the tokens in (0, 1], not {keep_tokens}")
    if len(image_tokens) != len(text_tokens):
        raise ValueError(f"filip_loss needs matched rows, got {len(image_tokens)} images, {len(text_tokens)} texts")
    rows = rows or slice(None)
    image = image_tokens, _all_real(image_tokens, image_mask)
    text = text_tokens, _all_real(text_tokens, text_mask)
    if keep_tokens is not None:
        image, text = _select(*image, *text, keep_tokens, block), _select(*text, *image, keep_tokens, block)
    targets = torch.arange(len(image_tokens), device=image_tokens.device)[rows]
    losses = []
    for (own, own_mask), others in ((image, text), (text, image)):
        logits = logit_scale * _best_matches(own[rows], own_mask[rows], *others, block)
        losses.append(F.cross_entropy(logits, targets))
    return torch.stack(losses).mean()


def _all_real(tokens: Tensor, mask: Tensor | None) -> Tensor:
    return tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask


def _best_matches(own: Tensor, own_mask: Tensor, others: Tensor, others_mask: Tensor, block: int | None) -> Tensor:
    """Mean over the own real tokens of their best match among the others' real tokens [own, others]."""
    compare = partial(_mean_of_best, others=others, others_mask=others_mask)
    if block is None:
        return compare(own, own_mask)
    parts = zip(torch.split(own, block), torch.split(own_mask, block), strict=True)
    return torch.cat([checkpoint(compare, *part, use_reentrant=False) for part in parts])


def _mean_of_best(own: Tensor, own_mask: Tensor, others: Tensor, others_mask: Tensor) -> Tensor:
    best = _best(own, others, others_mask)
    weights = own_mask.to(best.dtype) / own_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (best * weights[:, :, None]).sum(dim=1)


def _best(own: Tensor, others: Tensor, others_mask: Tensor) -> Tensor:
    """Each own token's best match in each other sample [own, own_length, others]."""
    similarities = own.flatten(0, 1) @ others.flatten(0, 1).T
    similarities = similarities.view(len(similarities), *others_mask.shape).masked_fill_(~others_mask, -torch.inf)
    # max keeps the places alone for the backward pass, amax would keep all similarities
    return similarities.max(dim=2).values.view(*own.shape[:2], len(others))


def _select(
    own: Tensor, own_mask: Tensor, others: Tensor, others_mask: Tensor, share: float, block: int | None
) -> tuple[Tensor, Tensor]:
    """The share of each sample's real tokens whose best match over all other samples is best, with their mask."""
    with torch.no_grad():
        parts = torch.split(own, block or len(own))
        scores = torch.cat([_best(part, others, others_mask).amax(dim=2) for part in parts])
    most = math.ceil(share * own.shape[1] - 1e-9)  # 0.1 * 30 is above 3 in floats
    places = scores.masked_fill(~own_mask, -torch.inf).topk(most, dim=1).indices
    counts = torch.ceil(share * own_mask.sum(dim=1).double() - 1e-9)
    mask = torch.arange(most, device=own.device) < counts[:, None]
    return own.take_along_dim(places[:, :, None], dim=1), mask
