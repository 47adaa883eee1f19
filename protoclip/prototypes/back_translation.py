"""Prototype Back Translation: a teacher's clusters expressed in the student's own space."""

import torch
from torch import Tensor


def back_translate(student_features: Tensor, teacher_labels: Tensor, num_prototypes: int) -> Tensor:
    """Mean student feature of each of the teacher's clusters (ProtoCLIP, eq. 7).

    Args:
        student_features: [samples, dim].
        teacher_labels: the teacher's cluster of each sample [samples], int64 in [0, num_prototypes).
        num_prototypes: number of the teacher's clusters.

    Returns:
        [num_prototypes, dim], not re-normalised; clusters without members are zero rows.
    """
    sums = student_features.new_zeros(num_prototypes, student_features.shape[1])
    sums.index_add_(0, teacher_labels, student_features)
    counts = torch.bincount(teacher_labels, minlength=num_prototypes).clamp(min=1)
    return sums / counts[:, None].to(sums.dtype)
