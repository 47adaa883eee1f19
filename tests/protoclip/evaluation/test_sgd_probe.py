import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from protoclip.evaluation import Extracted, SGDProbe, linear_probe, sgd_probe
from protoclip.evaluation.sgd_probe import _fit


def _case(noise: float = 2.0, classes: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, 16, generator=generator)
    train_labels, test_labels = torch.arange(240) % classes, torch.arange(200) % classes
    train = centres[train_labels] + noise * torch.randn(240, 16, generator=generator)
    test = centres[test_labels] + noise * torch.randn(200, 16, generator=generator)
    return train, train_labels, test, test_labels


QUICK: dict[str, Any] = {"epochs": 10, "batch_size": 60, "device": "cpu"}


def test_against_loops() -> None:
    """SGD with momentum, decay and a cosine by epochs, in NumPy: the gradient of a softmax regression is known."""
    features, labels = (part.double() for part in _case()[:2])
    labels = labels.long()
    sgd = partial(SGD, lr=0.3, momentum=0.9, weight_decay=0.01)
    weight, bias = _fit(features, labels, 4, sgd, epochs=3, batch_size=100, seed=5)
    generator = torch.Generator().manual_seed(5)
    w = 0.01 * torch.randn(4, 16, generator=generator, dtype=torch.float64).numpy()
    b, w_speed, b_speed = np.zeros(4), np.zeros((4, 16)), np.zeros(4)
    for epoch in range(3):
        rate = 0.3 * (1 + math.cos(math.pi * epoch / 3)) / 2
        order = torch.randperm(240, generator=generator).numpy()
        for start in (0, 100, 200):
            x, y = (part.numpy()[order[start : start + 100]] for part in (features, labels))
            logits = np.exp(x @ w.T + b)
            error = (logits / logits.sum(axis=1, keepdims=True) - np.eye(4)[y]) / len(x)
            w_speed = 0.9 * w_speed + error.T @ x + 0.01 * w
            b_speed = 0.9 * b_speed + error.sum(axis=0) + 0.01 * b
            w, b = w - rate * w_speed, b - rate * b_speed
    np.testing.assert_allclose(weight.numpy(), w, rtol=1e-9)
    np.testing.assert_allclose(bias.numpy(), b, rtol=1e-9)


def test_separable_classes_are_perfect_and_others_near_the_logistic_regression() -> None:
    assert sgd_probe(*_case(noise=0.1), **QUICK) == {"top1": 100.0}
    case = _case()
    assert sgd_probe(*case, **QUICK)["top1"] == pytest.approx(linear_probe(*case, C=1.0)["top1"], abs=5)


def test_a_trainer_evaluates_in_inference_mode() -> None:
    with torch.inference_mode():
        inside = sgd_probe(*_case(), **QUICK)
    assert inside == sgd_probe(*_case(), **QUICK)


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (sgd_probe(*_case(), **QUICK | {"epochs": 2}, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_are_names_and_a_class_without_training_samples_counts_as_wrong() -> None:
    train, train_labels, test, test_labels = _case(noise=0.1)
    assert sgd_probe(train, 7 * train_labels + 3, test, 7 * test_labels + 3, **QUICK) == {"top1": 100.0}
    unknown = torch.where(test_labels == 0, 9, test_labels)
    assert sgd_probe(train, train_labels, test, unknown, **QUICK) == {"top1": 75.0}


def test_normalize_and_standardize() -> None:
    train, train_labels, test, test_labels = (part.double() if part.is_floating_point() else part for part in _case())
    lengths = torch.rand(240, 1, generator=torch.Generator().manual_seed(1)) * 5 + 0.1
    plain = sgd_probe(train, train_labels, test, test_labels, **QUICK)
    normalised = sgd_probe(train, train_labels, test, test_labels, normalize=True, **QUICK)
    assert normalised != plain
    assert sgd_probe(train * lengths, train_labels, 3 * test, test_labels, normalize=True, **QUICK) == normalised
    scale, shift = torch.logspace(-2, 2, 16), torch.arange(16)
    moved = (train * scale + shift, train_labels, test * scale + shift, test_labels)
    standardised = sgd_probe(train, train_labels, test, test_labels, standardize=True, **QUICK)
    assert sgd_probe(*moved, standardize=True, **QUICK) == standardised
    constant = torch.ones(1, 1, dtype=torch.float64)
    wider = [torch.cat([part, constant.expand(len(part), 1)], dim=1) for part in (train, test)]
    result = sgd_probe(wider[0], train_labels, wider[1], test_labels, standardize=True, **QUICK)
    assert result["top1"] == pytest.approx(standardised["top1"], abs=5)  # a dimension that says nothing is no NaN


def test_mistakes_are_named() -> None:
    train, train_labels, test, test_labels = _case()
    with pytest.raises(ValueError, match="at least two classes"):
        sgd_probe(train, train_labels * 0, test, test_labels)
    with pytest.raises(ValueError, match="differ in dim"):
        sgd_probe(train, train_labels, test[:, :3], test_labels)
    wrong: list[dict[str, Any]] = [{"epochs": 0}, {"batch_size": 0}]
    for how in wrong:
        with pytest.raises(ValueError, match="epochs and batch_size must be at least 1"):
            sgd_probe(train, train_labels, test, test_labels, **how)
    with pytest.raises(ValueError, match="torch has no device 'abacus' here: set device=auto"):
        sgd_probe(train, train_labels, test, test_labels, device="abacus")


def test_the_task_is_on_the_raw_embedding(sets: dict[str, Extracted]) -> None:
    train, test = sets["train"], sets["objects"]
    data = (train.image["embedding"], train.labels, test.image["embedding"], test.labels)
    result = SGDProbe("objects", "train", device="cpu")(sets)
    assert result == sgd_probe(*data, device="cpu")
    how: dict[str, Any] = {"epochs": 2, "batch_size": 7, "learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1}
    how |= {"normalize": True, "standardize": True, "seed": 3, "device": "cpu"}
    assert SGDProbe("objects", "train", **how)(sets) == sgd_probe(*data, **how) != result
