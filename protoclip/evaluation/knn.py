"""Weighted k-nearest-neighbour accuracy, as DINO reports it (Caron et al. 2021, appendix E)."""

import torch
from torch import Tensor

from protoclip.evaluation.checks import checked_splits
from protoclip.evaluation.ranking import normalised, similarity
from protoclip.evaluation.task import Sets, Task
from protoclip.ranges import PositiveFloat, PositiveInt


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    block: int = 2**26,
) -> float:
    """Top-1 of a vote of the k nearest training samples, each with the weight exp(cosine / temperature).

    Both sides are L2-normalised here. The classes are those of the training labels: a test class that does not occur
    there counts as wrong.

    Args:
        train_features: [train, dim].
        train_labels: [train].
        test_features: [test, dim], any number of them.
        test_labels: [test].
        k: Neighbours that vote, at most the number of training samples.
        temperature: Softness of the votes.
        block: Scores held at a time, which bounds the memory and not the result.

    Returns:
        Top-1 accuracy in percent.

    Raises:
        ValueError: If dims or counts differ, a label is negative, or k or the temperature is out of range.
    """
    train, train_labels, test, test_labels = checked_splits(train_features, train_labels, test_features, test_labels)
    if not 1 <= k <= len(train):
        raise ValueError(f"k must lie in 1 to {len(train)}, the number of training samples, got {k}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    train, test = normalised(train), normalised(test)
    classes, class_index = torch.unique(train_labels, return_inverse=True)
    right = 0
    step = max(1, block // len(train))
    for rows, targets in zip(torch.split(test, step), torch.split(test_labels, step), strict=True):
        cosine, neighbours = similarity(rows, train).topk(k, dim=1)
        # softmax is the vote up to a factor per test sample, and cannot overflow at a low temperature
        weights = (cosine / temperature).softmax(dim=1)
        votes = weights.new_zeros(len(rows), len(classes)).scatter_add_(1, class_index[neighbours], weights)
        right += int((classes[votes.argmax(dim=1)] == targets).sum())
    return 100 * right / len(test)


class KNN(Task):
    """Weighted nearest neighbours on unit features.

    Args:
        pictures: a labelled set.
        train: the labelled set of the neighbours.
        k: neighbours that vote.
        temperature: softness of the votes.
    """

    def __init__(self, pictures: str, train: str, k: PositiveInt = 20, temperature: PositiveFloat = 0.07) -> None:
        super().__init__(pictures, train)
        self.k = k
        self.temperature = temperature

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        return {"top1": knn_accuracy(*self.splits(sets, "features"), k=self.k, temperature=self.temperature)}
