"""Losses against an external teacher's features."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
