"""Soft targets: how much a sample of one prototype also resembles the others."""

import torch
from torch import Tensor


def soft_targets(
    teacher_centroids: Tensor, labels: Tensor, temperature: float, *, valid: Tensor | None = None
) -> Tensor:
    """Relations between prototypes as target probabilities (ProtoCLIP, eq. 5).

    Args:
        teacher_centroids: the teacher's raw centroids C [num_prototypes, dim]; K-means centroids of unit vectors are
            shorter than 1, so a sample's own prototype is not always the most likely one.
        labels: each sample's prototype [batch], int64.
        temperature: the softmax' temperature, above 0 (0.01 in the paper).
        valid: bool [num_prototypes]; those False get no mass.

    Returns:
        softmax(C[labels] @ C.T / temperature) [batch, num_prototypes], without gradient.

    Raises:
        ValueError: a temperature of 0 or less.
    """
    if temperature <= 0:
        raise ValueError(f"the target temperature is above 0, not {temperature}; leave it out for hard targets")
    centroids = teacher_centroids.detach()
    similarities = centroids[labels] @ centroids.T / temperature
    if valid is not None:
        similarities = similarities.masked_fill(~valid, -torch.inf)
    return similarities.softmax(dim=1)
