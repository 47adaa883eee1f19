"""How the two modalities lie in the embedding space: gap, self-similarity, spread.

All of them L2-normalise their input, and sum in float64 because they are small differences of many terms.
"""

import torch
from torch import Tensor

from protoclip.evaluation.checks import check_same_dim, checked_features
from protoclip.evaluation.ranking import normalised


def modality_gap(image_features: Tensor, text_features: Tensor) -> float:
    """Distance of the modalities' mean embeddings (Liang et al. 2022): 0 to 2.

    Args:
        image_features: [images, dim].
        text_features: [texts, dim]; the counts may differ.

    Raises:
        ValueError: If the dims differ or something is empty or not finite.
    """
    images = checked_features("image_features", image_features)
    texts = checked_features("text_features", text_features)
    check_same_dim("image_features", images, "text_features", texts)
    return float((_unit(images).mean(dim=0) - _unit(texts).mean(dim=0).to(images.device)).norm())


def self_similarity(features: Tensor, *, chunk: int = 1024) -> float:
    """Mean of the positive entries of the cosine matrix of one modality, diagonal included: 1 when collapsed.

    Args:
        features: [samples, dim].
        chunk: Rows per block of the matrix.

    Raises:
        ValueError: If ``features`` is empty, not finite, or all zero.
    """
    unit = _unit(checked_features("features", features))
    total, count = 0.0, 0
    for rows in torch.split(unit, chunk):
        positive = (rows @ unit.T).clamp(min=0)
        total += float(positive.sum())
        count += int(positive.count_nonzero())
    if count == 0:
        raise ValueError("features are all zero: self_similarity has no positive entry")
    return total / count


def feature_std(features: Tensor) -> float:
    """Mean over the dimensions of the unbiased standard deviation: 0 when collapsed, about 1 / sqrt(dim) at best.

    Args:
        features: [samples, dim], at least two samples.

    Raises:
        ValueError: If there are fewer than two samples, or a value is not finite.
    """
    features = checked_features("features", features)
    if len(features) < 2:
        raise ValueError("feature_std needs at least two samples, got 1")
    return float(_unit(features).std(dim=0).mean())


def _unit(features: Tensor) -> Tensor:
    return normalised(features.double())
