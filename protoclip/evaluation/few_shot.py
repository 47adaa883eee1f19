"""Few-shot probe: logistic regression on a few training samples per class, over several draws of them."""

from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from protoclip.evaluation.checks import checked_splits
from protoclip.evaluation.linear_probe import linear_probe
from protoclip.evaluation.task import Sets, Task
from protoclip.ranges import PositiveFloat, PositiveInt
from protoclip.seeds import derive_seed


def few_shot_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    shots: int = 16,
    draws: int = 5,
    C: float = 0.316,  # noqa: N803, scikit-learn's name
    max_iter: int = 1000,
    normalize: bool = False,
    standardize: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Test accuracy of a linear probe on ``shots`` training samples of each class, drawn several times.

    C is fixed, because a sweep would need a validation split of samples that few-shot learning does not have.

    Args:
        train_features: [train, dim] un-normalised embeddings.
        train_labels: [train], at least two classes.
        test_features: [test, dim].
        test_labels: [test]; a class that is not in the training labels counts as wrong.
        shots: Training samples of each class.
        draws: Times that they are drawn; the samples of one draw do not depend on the number of draws.
        C: Inverse strength of the L2 penalty.
        max_iter: L-BFGS iterations per fit.
        normalize: L2-normalise each feature first.
        standardize: Give each dimension mean 0 and variance 1 over the samples drawn.
        seed: Of the draws.

    Returns:
        ``top1``, its mean over the draws, and ``top1_std``, its unbiased standard deviation, in percent.

    Raises:
        ValueError: If dims or counts differ, there is one class only, a class has fewer than ``shots`` samples, or an
            option is out of range.
    """
    train, train_labels, test, test_labels = checked_splits(train_features, train_labels, test_features, test_labels)
    _check_counts(shots, draws)
    classes, counts = torch.unique(train_labels, return_counts=True)
    if (fewest := int(counts.min())) < shots:
        scarce = int(classes[counts.argmin()])
        raise ValueError(f"class {scarce} has {fewest} training samples: set shots to at most {fewest}, got {shots}")
    members = torch.split(train_labels.argsort(stable=True), counts.tolist())
    scores = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(derive_seed(seed, "few_shot", draw))
        rows = torch.cat([own[torch.randperm(len(own), generator=generator)[:shots]] for own in members])
        how: dict[str, Any] = {"C": C, "max_iter": max_iter, "normalize": normalize, "standardize": standardize}
        scores.append(linear_probe(train[rows], train_labels[rows], test, test_labels, **how)["top1"])
    return {"top1": fmean(scores), "top1_std": stdev(scores)}


def _check_counts(shots: int, draws: int) -> None:
    if shots < 1 or draws < 2:
        raise ValueError(f"shots must be at least 1 and draws at least 2, got {shots} and {draws}")


class FewShot(Task):
    """Linear probe on a few training samples per class; its options are those of ``few_shot_probe``.

    Args:
        pictures: a labelled set.
        train: the labelled set that the samples are drawn from.
        shots: samples of each class.
        draws: times that they are drawn, at least 2.
        C: inverse strength of the penalty.
        max_iter: iterations per fit.
        normalize: L2-normalise each embedding.
        standardize: give each dimension mean 0 and variance 1.
        seed: of the draws.

    Raises:
        ValueError: one draw alone has no deviation.
    """

    def __init__(
        self,
        pictures: str,
        train: str,
        shots: PositiveInt = 16,
        draws: PositiveInt = 5,
        C: PositiveFloat = 0.316,  # noqa: N803, scikit-learn's name
        max_iter: PositiveInt = 1000,
        normalize: bool = False,
        standardize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(pictures, train)
        _check_counts(shots, draws)
        self.options: dict[str, Any] = {
            "shots": shots,
            "draws": draws,
            "C": C,
            "max_iter": max_iter,
            "normalize": normalize,
            "standardize": standardize,
            "seed": seed,
        }

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        return few_shot_probe(*self.splits(sets, "embedding"), **self.options)
