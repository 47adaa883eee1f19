"""Contrast between the rows of two modalities."""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses.rows import compared

SMOOTHINGS = ("negatives", "literal", "uniform")


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    label_smoothing: float = 0.0,
    smoothing: str = "negatives",
    rows: slice | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE between matched rows (CLIP), with PyramidCLIP's softened targets as an option.

    Args:
        image_features: unit vectors [batch, dim].
        text_features: unit vectors [batch, dim]; row i belongs to image i.
        logit_scale: scalar, 1 / temperature.
        label_smoothing: mass a taken from the positive, in [0, 1).
        smoothing: how a is spread over N columns. ``negatives``: positive 1-a, others a/(N-1). ``literal``: a/(N-1)
            more on every entry, as PyramidCLIP's eq. 3-4 are printed (rows sum to 1 + a/(N-1)). ``uniform``: a/N on
            every entry.
        rows: the anchors among the rows; None for all.
        valid: bool [batch]; rows that are False stay out as anchors and as candidates. None for all.

    Returns:
        Scalar, the mean of the image-to-text and text-to-image cross entropies; 0 where no row is valid.

    Raises:
        ValueError: shapes differ, or an unknown smoothing.
    """
    _check_matched("clip_loss", image_features, text_features)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is in [0, 1), not {label_smoothing}")
    (image, text), anchors, divisor = compared(image_features, text_features, rows=rows, valid=valid)
    to_text = logit_scale * image[anchors] @ text.T
    to_image = logit_scale * text[anchors] @ image.T
    targets = torch.arange(len(image), device=image.device)[anchors]
    sums = [_smoothed_cross_entropy(logits, targets, label_smoothing, smoothing) for logits in (to_text, to_image)]
    return torch.stack(sums).mean() / divisor


def _check_matched(loss: str, first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"{loss} needs matched rows, got {tuple(first.shape)} and {tuple(second.shape)}")


def _smoothed_cross_entropy(logits: Tensor, targets: Tensor, amount: float, smoothing: str) -> Tensor:
    """Sum over the anchors."""
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"smoothing is one of {', '.join(SMOOTHINGS)}, not {smoothing!r}")
    if amount == 0.0:
        return F.cross_entropy(logits, targets, reduction="sum")
    log_probabilities = logits.log_softmax(dim=1)
    positive = log_probabilities.gather(1, targets[:, None]).squeeze(1)
    share = amount / max(logits.shape[1] - (smoothing != "uniform"), 1)
    positive_mass = 1.0 - amount + (0.0 if smoothing == "negatives" else share)
    negatives = log_probabilities.sum(dim=1) - positive
    return -(positive_mass * positive + share * negatives).sum()


def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    rows: slice | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Each image with each text as a decision of its own, whether they match (SigLIP).

    Zhai et al., https://arxiv.org/abs/2303.15343.

    Args:
        image_features: unit vectors [batch, dim].
        text_features: unit vectors [batch, dim]; row i belongs to image i.
        logit_scale: scalar, 1 / temperature.
        logit_bias: scalar, added to every logit.
        rows: the images that are anchors; None for all.
        valid: bool [batch]; rows that are False stay out as anchors and as candidates. None for all.

    Returns:
        Scalar, the mean over the images of the sum over the texts of -log sigmoid(+-logit); 0 where no row is valid.

    Raises:
        ValueError: shapes differ.
    """
    _check_matched("sigmoid_loss", image_features, text_features)
    (image, text), anchors, divisor = compared(image_features, text_features, rows=rows, valid=valid)
    logits = logit_scale * image[anchors] @ text.T + logit_bias
    positive = logits.diagonal(anchors.start)
    # -log sigmoid(-x) everywhere, and x less where they match: -log sigmoid(x) = -log sigmoid(-x) - x
    return (F.softplus(logits).sum() - positive.sum()) / divisor


def nearest_neighbour_loss(
    image_features: Tensor,
    neighbour_features: Tensor,
    logit_scale: Tensor,
    *,
    symmetric: bool = False,
    rows: slice | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """InfoNCE of images against the nearest neighbours of their texts (DeCLIP's nearest-neighbour supervision).

    Li et al., https://arxiv.org/abs/2110.05208.

    Args:
        image_features: unit vectors [batch, dim].
        neighbour_features: unit vectors [batch, dim], constants; row i is what is nearest to text i.
        logit_scale: scalar, 1 / temperature.
        symmetric: whether each neighbour also looks for its image, at the mean of both directions.
        rows: the anchors among the rows; None for all.
        valid: bool [batch]; rows that are False stay out as anchors and as candidates. None for all.

    Returns:
        Scalar; 0 where no row is valid. Gradient flows to ``image_features`` and ``logit_scale`` alone.

    Raises:
        ValueError: shapes differ.
    """
    _check_matched("nearest_neighbour_loss", image_features, neighbour_features)
    constants = neighbour_features.detach().to(image_features.dtype)
    (image, neighbours), anchors, divisor = compared(image_features, constants, rows=rows, valid=valid)
    targets = torch.arange(len(image), device=image.device)[anchors]
    logits = [logit_scale * image[anchors] @ neighbours.T]
    if symmetric:
        logits.append(logit_scale * neighbours[anchors] @ image.T)
    return torch.stack([F.cross_entropy(each, targets, reduction="sum") for each in logits]).mean() / divisor
