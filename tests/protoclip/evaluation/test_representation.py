import math
import statistics

import pytest
import torch
from torch.nn import functional

from protoclip.evaluation import feature_std, modality_gap, self_similarity


def test_modality_gap_by_hand() -> None:
    images = torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # mean of the unit vectors: (.5, .5)
    texts = torch.tensor([[-1.0, 0.0]])
    assert modality_gap(images, texts) == pytest.approx(math.hypot(1.5, 0.5))
    assert modality_gap(texts, images) == pytest.approx(modality_gap(images, texts))
    assert modality_gap(images, 5 * images) == pytest.approx(0.0, abs=1e-7)


def test_modality_gap_is_invariant_under_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(20, 6, generator=generator), torch.randn(30, 6, generator=generator) + 1
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    assert modality_gap(images @ rotation, texts @ rotation) == pytest.approx(modality_gap(images, texts), rel=1e-5)


def test_self_similarity_by_hand() -> None:
    # cosines: the diagonal 1 (three times), 0.6 (twice), and -1, -0.6 (left out)
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-2.0, 0.0]])
    assert self_similarity(features) == pytest.approx((3 * 1 + 2 * 0.6) / 5)
    assert self_similarity(torch.ones(7, 3)) == pytest.approx(1.0)


def test_self_similarity_against_loops_in_any_chunk() -> None:
    features = torch.randn(23, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = functional.normalize(features, dim=-1)
    cosines = [float(a @ b) for a in unit for b in unit]
    oracle = statistics.fmean(value for value in cosines if value > 0)
    for chunk in (1, 4, 1024):
        assert self_similarity(features, chunk=chunk) == pytest.approx(oracle)


def test_feature_std_by_hand_and_against_loops() -> None:
    # the second dimension of the unit vectors is 0, 1: unbiased std 1 / sqrt(2); the first likewise
    assert feature_std(torch.tensor([[4.0, 0.0], [0.0, 2.0]])) == pytest.approx(0.5**0.5)
    features = torch.randn(11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns = functional.normalize(features, dim=-1).T.tolist()
    assert feature_std(features) == pytest.approx(statistics.fmean(statistics.stdev(column) for column in columns))
    assert feature_std(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-7)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="image_features and text_features differ in dim"):
        modality_gap(torch.eye(2), torch.eye(3))
    with pytest.raises(ValueError, match="text_features is empty"):
        modality_gap(torch.eye(2), torch.empty(0, 2))
    with pytest.raises(ValueError, match="at least two samples"):
        feature_std(torch.ones(1, 2))
    with pytest.raises(ValueError, match="all zero"):
        self_similarity(torch.zeros(2, 2))
