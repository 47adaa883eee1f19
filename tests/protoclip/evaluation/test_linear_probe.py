import logging
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import linear_model, pipeline
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from protoclip.evaluation import Extracted, LinearProbe, linear_probe
from protoclip.evaluation.linear_probe import SWEEP_GRID


def _case(
    train: int = 240, test: int = 200, classes: int = 4, noise: float = 2.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, 16, generator=generator)
    train_labels = torch.arange(train) % classes
    test_labels = torch.arange(test) % classes
    train_features = centres[train_labels] + noise * torch.randn(train, 16, generator=generator)
    test_features = centres[test_labels] + noise * torch.randn(test, 16, generator=generator)
    return train_features, train_labels, test_features, test_labels


def test_separable_classes_are_perfect() -> None:
    assert linear_probe(*_case(noise=0.1), C=1.0) == {"top1": 100.0, "C": 1.0}


def test_the_penalty_is_that_of_the_sum_of_losses() -> None:
    """Minimise C * sum of cross-entropies + |W|^2 / 2 by gradient descent in torch."""
    train, train_labels, test, test_labels = (x.double() if x.is_floating_point() else x for x in _case())
    weight = torch.zeros(4, 16, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.01 * functional.cross_entropy(train @ weight.T + bias, train_labels, reduction="sum")
        loss = loss + 0.5 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    oracle = 100 * float(((test @ weight.T + bias).argmax(dim=1) == test_labels).double().mean())
    assert linear_probe(train, train_labels, test, test_labels, C=0.01)["top1"] == pytest.approx(oracle, abs=0.5)


def _sweep_scores(
    monkeypatch: pytest.MonkeyPatch, peak: int, slope: float = 0.01
) -> tuple[dict[str, float], list[int], list[tuple[int, int]]]:
    """Run the sweep with a classifier whose accuracy falls with the distance from grid[peak].

    Returns the result, the grid points tried, and the number of samples (fitted, judged) each time.
    """
    tried: list[int] = []
    sizes: list[tuple[int, int]] = []

    class Probe:
        def __init__(self, C: float) -> None:  # noqa: N803
            self.index = int(np.abs(np.log10(SWEEP_GRID) - np.log10(C)).argmin())
            self.n_iter_ = np.array([1])

        def fit(self, x: Any, y: Any) -> "Probe":
            tried.append(self.index)
            self.fitted = len(x)
            return self

        def predict(self, x: Any) -> Any:
            sizes.append((self.fitted, len(x)))
            wrong = abs(self.index - peak) * slope
            return np.where(np.arange(len(x)) < wrong * len(x), -1, np.asarray(x)[:, 0].round().astype(int))

    class OneStep(list[Probe]):
        def fit(self, x: Any, y: Any) -> "OneStep":
            self[0].fit(x, y)
            return self

        def predict(self, x: Any) -> Any:
            return self[0].predict(x)

    monkeypatch.setattr(linear_model, "LogisticRegression", lambda C, **_: Probe(C))  # noqa: N803
    monkeypatch.setattr(pipeline, "make_pipeline", lambda probe: OneStep([probe]))
    labels = torch.arange(1000) % 4
    features = labels[:, None].float()
    return linear_probe(features, labels, features[:500], labels[:500]), tried, sizes


@pytest.mark.parametrize("peak", [0, 3, 33, 50, 95, 96])
def test_the_sweep_is_a_binary_search(monkeypatch: pytest.MonkeyPatch, peak: int) -> None:
    result, tried, sizes = _sweep_scores(monkeypatch, peak)
    assert tried[:7] == [0, 16, 32, 48, 64, 80, 96]
    assert len(set(tried[:-1])) == len(tried[:-1]) <= 15
    assert result["C"] == pytest.approx(SWEEP_GRID[peak])
    assert tried[-1] == peak
    # judged on a held-out fifth, then refitted on everything; the test set has 500
    assert sizes == [(800, 200)] * (len(sizes) - 1) + [(1000, 500)]


def test_of_equal_scores_the_strongest_penalty_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _sweep_scores(monkeypatch, peak=48, slope=0.0)[0]["C"] == pytest.approx(1e-6)


def test_sweep_finds_a_good_value_and_never_looks_at_the_test_set() -> None:
    train, train_labels, test, test_labels = _case()
    result = linear_probe(train, train_labels, test, test_labels)
    shuffled = linear_probe(train, train_labels, test, test_labels.flip(0) * 0)
    assert result["C"] == shuffled["C"]
    assert any(result["C"] == pytest.approx(value) for value in SWEEP_GRID)
    worst = min(linear_probe(train, train_labels, test, test_labels, C=value)["top1"] for value in (1e-6, 1e6))
    assert result["top1"] > worst


def test_the_seed_decides_the_split_alone() -> None:
    case = _case()
    assert linear_probe(*case, seed=1) == linear_probe(*case, seed=1)
    assert linear_probe(*case, C=0.316, seed=1) == linear_probe(*case, C=0.316, seed=2)


def test_normalize_and_standardize() -> None:
    train, train_labels, test, test_labels = _case()
    lengths = torch.rand(240, 1, generator=torch.Generator().manual_seed(1)) * 5 + 0.1
    plain = linear_probe(train, train_labels, test, test_labels, C=0.1, normalize=True)
    assert linear_probe(train * lengths, train_labels, 3 * test, test_labels, C=0.1, normalize=True) == plain
    assert linear_probe(3 * train, train_labels, 3 * test, test_labels, C=1e-4) != linear_probe(
        train, train_labels, test, test_labels, C=1e-4
    )
    scale, shift = torch.logspace(-2, 2, 16), torch.arange(16)
    moved = linear_probe(
        train * scale + shift, train_labels, test * scale + shift, test_labels, C=0.1, standardize=True
    )
    assert moved == linear_probe(train, train_labels, test, test_labels, C=0.1, standardize=True)


def test_agrees_with_scikit_learn_in_both_precisions() -> None:
    train, train_labels, test, test_labels = _case()
    reference = LogisticRegression(C=0.316, max_iter=1000, random_state=0).fit(train.double(), train_labels)
    score = 100 * reference.score(test.double(), test_labels)
    for dtype in (torch.float32, torch.float64):
        assert linear_probe(train.to(dtype), train_labels, test.to(dtype), test_labels, C=0.316)["top1"] == score


def test_a_fit_without_convergence_is_one_log_line_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        linear_probe(*_case(), max_iter=2, C=1000.0)
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "C=1000 has not converged after 2 iterations" in caplog.text
        linear_probe(*_case(), max_iter=2)
        assert len(caplog.records) <= 2  # of the sweep's 16 fits, the last alone may speak
    assert not caught


def test_mistakes_are_named() -> None:
    train, train_labels, test, test_labels = _case()
    with pytest.raises(ValueError, match="at least two classes"):
        linear_probe(train, train_labels * 0, test, test_labels)
    for value in (0.0, -1.0, "Sweep"):
        with pytest.raises(ValueError, match="C must be a positive number or 'sweep'"):
            linear_probe(train, train_labels, test, test_labels, C=value)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="C must be a positive number or 'sweep'"):
            LinearProbe("objects", "train", C=value)  # type: ignore[arg-type]
    alone = torch.where(torch.arange(len(train)) == 5, 9, train_labels)
    with pytest.raises(ValueError, match=r"^class 9 has one training sample, .* give a fixed C, such as C=0\.316$"):
        linear_probe(train, alone, test, test_labels)
    with pytest.raises(ValueError, match=r"^2 of 8 training samples for validation leave out .* C=0\.316$"):
        linear_probe(train[:8], train_labels[:8], test, test_labels)
    with pytest.raises(ValueError, match="validation_fraction must lie between 0 and 1"):
        linear_probe(train, train_labels, test, test_labels, validation_fraction=1.0)
    with pytest.raises(ValueError, match="differ in dim"):
        linear_probe(train, train_labels, test[:, :3], test_labels)


def test_the_task_is_on_the_raw_embedding(sets: dict[str, Extracted]) -> None:
    train, test = sets["train"], sets["objects"]
    data = (train.image["embedding"], train.labels, test.image["embedding"], test.labels)
    for penalty in (0.316, 10.0):
        assert LinearProbe("objects", "train", C=penalty)(sets) == linear_probe(*data, C=penalty)
    swept = LinearProbe("objects", "train", max_iter=20)(sets)
    assert swept == linear_probe(*data, max_iter=20)
    assert swept["C"] not in {0.316, 10.0}
    how: dict[str, Any] = {"validation_fraction": 0.5, "normalize": True, "standardize": True, "seed": 3}
    assert LinearProbe("objects", "train", max_iter=20, **how)(sets) == linear_probe(*data, max_iter=20, **how) != swept
