"""Contrast between the rows of two modalities."""

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHINGS = ("negatives", "literal", "uniform")


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    label_smoothing: float = 0.0,
    smoothing: str = "negatives",
    rows: slice | None = None,
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

    Returns:
        Scalar, the mean of the image-to-text and text-to-image cross entropies.

    Raises:
        ValueError: shapes differ, or an unknown smoothing.
    """
    if image_features.shape != text_features.shape:
        raise ValueError(
            f"clip_loss needs matched rows, got {tuple(image_features.shape)} and {tuple(text_features.shape)}"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is in [0, 1), not {label_smoothing}")
    rows = rows or slice(None)
    to_text = logit_scale * image_features[rows] @ text_features.T
    to_image = logit_scale * text_features[rows] @ image_features.T
    targets = torch.arange(len(image_features), device=image_features.device)[rows]
    losses = (_smoothed_cross_entropy(logits, targets, label_smoothing, smoothing) for logits in (to_text, to_image))
    return torch.stack(tuple(losses)).mean()


def _smoothed_cross_entropy(logits: Tensor, targets: Tensor, amount: float, smoothing: str) -> Tensor:
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"smoothing is one of {', '.join(SMOOTHINGS)}, not {smoothing!r}")
    if smoothing == "uniform" or amount == 0.0:
        return F.cross_entropy(logits, targets, label_smoothing=amount)
    log_probabilities = logits.log_softmax(dim=1)
    positive = log_probabilities.gather(1, targets[:, None]).squeeze(1)
    share = amount / max(logits.shape[1] - 1, 1)
    positive_mass = 1.0 - amount + (share if smoothing == "literal" else 0.0)
    negatives = log_probabilities.sum(dim=1) - positive
    return -(positive_mass * positive + share * negatives).mean()
