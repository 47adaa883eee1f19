"""Losses of one modality on itself: two views of an image, masked words of a text."""

import torch
from torch import Tensor
from torch.nn import functional as F


def ntxent_loss(view1: Tensor, view2: Tensor, temperature: float = 0.1, *, rows: slice | None = None) -> Tensor:
    """Normalised temperature-scaled cross entropy between two views (SimCLR).

    Chen et al., https://arxiv.org/abs/2002.05709. An anchor's candidates are the other view of its sample and both
    views of all others, 2 batch - 1 in all.

    Args:
        view1: unit vectors [batch, dim].
        view2: unit vectors [batch, dim]; row i is of the same sample.
        temperature: above 0.
        rows: the samples that are anchors; None for all.

    Returns:
        Scalar, the mean over both views of the anchors.

    Raises:
        ValueError: shapes differ, or a temperature of 0 or less.
    """
    if view1.shape != view2.shape:
        raise ValueError(f"ntxent_loss needs matched rows, got {tuple(view1.shape)} and {tuple(view2.shape)}")
    if temperature <= 0:
        raise ValueError(f"the temperature of ntxent_loss is above 0, not {temperature}")
    rows = rows or slice(None)
    targets = torch.arange(len(view1), device=view1.device)[rows]
    losses = []
    for anchors, others in ((view1, view2), (view2, view1)):
        to_itself = (anchors[rows] @ anchors.T).scatter(1, targets[:, None], -torch.inf)
        logits = torch.cat([anchors[rows] @ others.T, to_itself], dim=1) / temperature
        losses.append(F.cross_entropy(logits, targets))
    return torch.stack(losses).mean()


def simsiam_loss(prediction1: Tensor, prediction2: Tensor, target1: Tensor, target2: Tensor) -> Tensor:
    """Negative cosine of each view's prediction with the other view's projection (SimSiam).

    Chen and He, https://arxiv.org/abs/2011.10566.

    Args:
        prediction1: of the first view's projection [batch, dim], of any length.
        prediction2: of the second's.
        target1: the first view's projection [batch, dim], of any length, a constant here.
        target2: the second's.

    Returns:
        Scalar in [-1, 1], the mean over both views. Gradient flows to the predictions alone.

    Raises:
        ValueError: shapes differ.
    """
    if len({value.shape for value in (prediction1, prediction2, target1, target2)}) > 1:
        raise ValueError(
            f"simsiam_loss needs predictions as wide as their targets, got {tuple(prediction1.shape)} and "
            f"{tuple(target1.shape)}: give the predictor the projector's width"
        )
    first = F.cosine_similarity(prediction1, target2.detach(), dim=1)
    second = F.cosine_similarity(prediction2, target1.detach(), dim=1)
    return -0.5 * (first + second).mean()


def masked_lm_loss(logits: Tensor, labels: Tensor, *, count: Tensor | int | None = None) -> Tensor:
    """Cross entropy of the words that were asked for (masked language modelling).

    Args:
        logits: [..., vocabulary].
        labels: int64 [...]; -100 is a position that is not asked.
        count: positions asked for in the whole batch, which the sum is divided by; None for those of ``labels``.

    Returns:
        Scalar; 0 with a graph where nothing is asked.
    """
    if count is None:
        count = (labels != -100).sum()
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
    return total / torch.as_tensor(count, device=total.device).clamp(min=1)
