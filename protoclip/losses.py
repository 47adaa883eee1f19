"""Losses as pure functions on tensors.

Features are L2-normalised, [batch, dim]; ``logit_scale`` is exp(log_scale), i.e. 1 / temperature. A loss is the mean
over its anchors. Nothing here communicates: a caller that trains on several devices gathers the features (with
gradient) and passes ``rows``, the slice of the global batch whose rows are its own anchors.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.prototypes.targets import soft_targets

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


def feature_distillation_loss(predicted: Tensor, teacher_features: Tensor) -> Tensor:
    """Squared distance of a student's prediction to its teacher's features (CLIP-KD's feature distillation).

    CLIP-KD: Yang et al., CVPR 2024. Neither side is normalised here.

    Args:
        predicted: the student's embeddings z after their linear map W [batch, dim].
        teacher_features: t of the same samples [batch, dim], constants.

    Returns:
        Scalar, the mean over the batch of |W z - t|^2. Gradient flows to ``predicted`` alone.

    Raises:
        ValueError: shapes differ.
    """
    if predicted.shape != teacher_features.shape:
        raise ValueError(
            f"a prediction {tuple(predicted.shape)} of teacher features {tuple(teacher_features.shape)}: "
            "give the head the teacher's width"
        )
    return (predicted - teacher_features.detach().to(predicted.dtype)).square().sum(dim=1).mean()


def affinity_distillation_loss(
    image_features: Tensor,
    text_features: Tensor,
    teacher_features: Tensor,
    logit_scale: Tensor,
    *,
    teacher_temperature: float,
    rows: slice | None = None,
) -> Tensor:
    """Cross entropy of the contrastive softmaxes against a teacher's similarities of the same batch.

    CLIP-KD's affinity mimicry (Yang et al., CVPR 2024) with one teacher space for both modalities: an anchor's targets
    over the batch are softmax(t @ t.T / teacher_temperature), t at unit length, in both directions.

    Args:
        image_features: unit vectors [batch, dim].
        text_features: unit vectors [batch, dim]; row i belongs to image i.
        teacher_features: of pair i [batch, teacher_dim], of any length, constants.
        logit_scale: scalar, 1 / temperature of the student.
        teacher_temperature: of the targets, above 0.
        rows: the anchors among the rows; None for all.

    Returns:
        Scalar, the mean of both directions over the anchors. Gradient flows to the student's features and
        ``logit_scale``.

    Raises:
        ValueError: rows that do not match, or a temperature of 0 or less.
    """
    if not len(image_features) == len(text_features) == len(teacher_features):
        counts = ", ".join(str(len(features)) for features in (image_features, text_features, teacher_features))
        raise ValueError(f"affinity_distillation_loss needs matched rows of image, text and teacher, got {counts}")
    if teacher_temperature <= 0:
        raise ValueError(f"teacher_temperature is above 0, not {teacher_temperature}")
    rows = rows or slice(None)
    teacher = F.normalize(teacher_features.detach().to(image_features.dtype), dim=1)
    targets = (teacher[rows] @ teacher.T / teacher_temperature).softmax(dim=1)
    to_text = logit_scale * image_features[rows] @ text_features.T
    to_image = logit_scale * text_features[rows] @ image_features.T
    return torch.stack([F.cross_entropy(logits, targets) for logits in (to_text, to_image)]).mean()
