import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from protoclip.evaluation import KNN, Extracted, knn_accuracy


def _case(train: int, test: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, 8, generator=generator)
    train_labels = torch.randint(0, 6, (train,), generator=generator)
    test_labels = torch.randint(0, 6, (test,), generator=generator)
    train_features = centres[train_labels] + 1.5 * torch.randn(train, 8, generator=generator)
    test_features = centres[test_labels] + 1.5 * torch.randn(test, 8, generator=generator)
    return train_features, train_labels, test_features, test_labels


def _oracle(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int, temperature: float
) -> float:
    train, test = functional.normalize(train, dim=-1), functional.normalize(test, dim=-1)
    right = 0
    for sample, label in zip(test, test_labels, strict=True):
        cosines = sorted(((float(other @ sample), int(own)) for other, own in zip(train, train_labels, strict=True)))[
            -k:
        ]
        votes: dict[int, float] = {}
        for cosine, own in cosines:
            votes[own] = votes.get(own, 0.0) + math.exp(cosine / temperature)
        right += max(votes, key=lambda own: votes[own]) == int(label)
    return 100 * right / len(test)


def test_by_hand_weights_beat_the_majority() -> None:
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels = torch.tensor([3, 7, 7])
    query = torch.tensor([[5.0, 0.0]])
    # exp(1/t) against 2 exp(0.6/t): the single near one wins below t = 0.4 / ln 2 = 0.577
    assert knn_accuracy(train, labels, query, torch.tensor([3]), k=3, temperature=0.5) == 100
    assert knn_accuracy(train, labels, query, torch.tensor([7]), k=3, temperature=0.7) == 100
    assert knn_accuracy(train, labels, query, torch.tensor([3]), k=1, temperature=0.7) == 100


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0)])
def test_against_loops(k: int, temperature: float) -> None:
    case = _case(train=120, test=70)
    result = knn_accuracy(*case, k=k, temperature=temperature, block=32 * 120 + 1)
    assert result == pytest.approx(_oracle(*case, k=k, temperature=temperature))
    assert 20 < result < 95


def test_length_does_not_matter() -> None:
    train, train_labels, test, test_labels = _case(train=120, test=70)
    scale = torch.rand(120, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    scaled = knn_accuracy(train * scale, train_labels, 7 * test, test_labels)
    assert scaled == knn_accuracy(train, train_labels, test, test_labels)


def test_a_single_test_image_of_one_class() -> None:
    train, train_labels, _, _ = _case(train=120, test=1)
    assert knn_accuracy(train, train_labels, train[:1], train_labels[:1], k=1) == 100


def test_a_low_temperature_does_not_overflow() -> None:
    case = _case(train=120, test=70)
    assert knn_accuracy(*case, temperature=1e-3) == pytest.approx(_oracle(*case, k=1, temperature=1.0))


def test_a_class_without_training_samples_counts_as_wrong() -> None:
    assert knn_accuracy(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 9]), k=1) == 50


def test_mistakes_are_named() -> None:
    one, labels = torch.eye(2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="k must lie in 1 to 2"):
        knn_accuracy(one, labels, one, labels)
    with pytest.raises(ValueError, match="temperature must be positive"):
        knn_accuracy(one, labels, one, labels, k=1, temperature=0)
    with pytest.raises(ValueError, match="train_features and test_features differ in dim"):
        knn_accuracy(one, labels, torch.eye(3), torch.tensor([0, 1, 0]), k=1)
    with pytest.raises(ValueError, match="test_labels has the shape"):
        knn_accuracy(one, labels, one, labels[:1], k=1)


def test_the_task(sets: dict[str, Extracted]) -> None:
    train, test = sets["train"], sets["objects"]
    data = (train.image["features"], train.labels, test.image["features"], test.labels)
    assert KNN("objects", "train")(sets) == {"top1": knn_accuracy(*data, k=20, temperature=0.07)}
    other = knn_accuracy(*data, k=3, temperature=1.0)
    assert KNN("objects", "train", k=3, temperature=1.0)(sets) == {"top1": other}
    assert len({other, knn_accuracy(*data, k=20, temperature=1.0), knn_accuracy(*data, k=20)}) > 1
