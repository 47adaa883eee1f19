"""ProtoCLIP's loss against prototypes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.prototypes.targets import soft_targets


def prototype_loss(
    student_features: Tensor,
    student_centroids: Tensor,
    logit_scale: Tensor,
    labels: Tensor,
    *,
    teacher_centroids: Tensor | None = None,
    target_temperature: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Cross entropy of projected features against prototypes (ProtoCLIP, eq. 4 and 5, as a mean over samples).

    Args:
        student_features: unit vectors [batch, dim].
        student_centroids: prototypes in the student's space [num_prototypes, dim], constants, not unit length.
        logit_scale: scalar, 1 / temperature.
        labels: each sample's prototype [batch], int64.
        teacher_centroids: the teacher's raw centroids [num_prototypes, teacher_dim]; needed for soft targets.
        target_temperature: soft targets softmax(C[label] @ C.T / temperature) when given, else one-hot targets.
        valid: bool [num_prototypes]; those False stay out of both softmaxes. None keeps all: an empty prototype is then
            a zero row whose logit is 0, as in the authors' code.

    Returns:
        Scalar. Gradient flows to ``student_features`` and ``logit_scale`` alone.

    Raises:
        ValueError: a target temperature without teacher centroids.
    """
    logits = logit_scale * student_features @ student_centroids.detach().to(student_features.dtype).T
    if valid is not None:
        logits = logits.masked_fill(~valid, -torch.inf)
    if target_temperature is None:
        return F.cross_entropy(logits, labels)
    if teacher_centroids is None:
        raise ValueError("soft targets need teacher_centroids; pass target_temperature=None for hard targets")
    targets = soft_targets(teacher_centroids.to(logits.dtype), labels, target_temperature, valid=valid)
    log_probabilities = logits.log_softmax(dim=1)
    if valid is not None:
        log_probabilities = log_probabilities.masked_fill(~valid, 0.0)  # their target is 0, and 0 * -inf is NaN
    return -(targets * log_probabilities).sum(dim=1).mean()
