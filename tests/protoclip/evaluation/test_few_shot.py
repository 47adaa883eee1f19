import statistics
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from protoclip.evaluation import Extracted, FewShot, few_shot_probe, linear_probe

MODULE = sys.modules[few_shot_probe.__module__]


def _case(noise: float = 1.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three classes of 40, 30 and 10 training samples; a column of the features says which row a sample is."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 8, generator=generator)
    train_labels = torch.tensor([0] * 40 + [1] * 30 + [2] * 10)[torch.randperm(80, generator=generator)]
    test_labels = torch.arange(90) % 3
    train = centres[train_labels] + noise * torch.randn(80, 8, generator=generator)
    test = centres[test_labels] + noise * torch.randn(90, 8, generator=generator)
    return train, train_labels, test, test_labels


def _spied(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[dict[str, float], list[Tensor], list[float]]:
    """The result, the samples of each draw, and each draw's score."""
    drawn: list[Tensor] = []
    scores: list[float] = []
    train, train_labels, test, test_labels = _case()
    rows_of = {tuple(row.tolist()): index for index, row in enumerate(train)}

    def spy(x: Tensor, y: Tensor, *rest: Tensor, **how: Any) -> dict[str, float]:
        rows = torch.tensor([rows_of[tuple(row.tolist())] for row in x])
        assert torch.equal(train_labels[rows], y)
        drawn.append(rows)
        result = linear_probe(x, y, *rest, **how)
        scores.append(result["top1"])
        return result

    monkeypatch.setattr(MODULE, "linear_probe", spy)
    return few_shot_probe(train, train_labels, test, test_labels, **options), drawn, scores


def test_every_draw_has_as_many_samples_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    result, drawn, scores = _spied(monkeypatch, shots=7, draws=4)
    labels = _case()[1]
    for rows in drawn:
        assert len(set(rows.tolist())) == 21
        assert labels[rows].bincount().tolist() == [7, 7, 7]
    assert len({tuple(sorted(rows.tolist())) for rows in drawn}) == 4
    assert result == {"top1": statistics.fmean(scores), "top1_std": statistics.stdev(scores)}
    assert result["top1_std"] > 0


def test_the_seed_decides_the_draws_and_more_draws_keep_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    two, three, other = (
        [rows.tolist() for rows in _spied(monkeypatch, shots=3, **how)[1]]
        for how in ({"draws": 2}, {"draws": 3}, {"draws": 2, "seed": 1})
    )
    assert three[:2] == two
    assert other != two


def test_all_samples_of_the_smallest_class_can_be_drawn_and_more_help() -> None:
    case = _case()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of scikit-learn, where a sample is a class
        few, many = few_shot_probe(*case, shots=1), few_shot_probe(*case, shots=10)
    assert 33 < few["top1"] < many["top1"] < 100


@pytest.mark.parametrize("how", [{"C": 1e-4}, {"normalize": True}, {"standardize": True}])
def test_options_reach_the_probe(how: dict[str, Any]) -> None:
    case = _case()
    assert few_shot_probe(*case, shots=5, **how) != few_shot_probe(*case, shots=5)


def test_mistakes_are_named() -> None:
    case = _case()
    with pytest.raises(ValueError, match=r"^class 2 has 10 training samples: set shots to at most 10, got 11$"):
        few_shot_probe(*case, shots=11)
    wrong: list[dict[str, Any]] = [{"shots": 0}, {"draws": 1}]
    for how in wrong:
        with pytest.raises(ValueError, match="shots must be at least 1 and draws at least 2"):
            few_shot_probe(*case, **how)
        with pytest.raises(ValueError, match="shots must be at least 1 and draws at least 2"):
            FewShot("objects", "train", **how)
    with pytest.raises(ValueError, match="differ in dim"):
        few_shot_probe(*case[:2], case[2][:, :3], case[3])


def test_the_task_is_on_the_raw_embedding(sets: dict[str, Extracted]) -> None:
    train, test = sets["train"], sets["objects"]
    data = (train.image["embedding"], train.labels, test.image["embedding"], test.labels)
    result = FewShot("objects", "train", shots=3)(sets)
    assert result == few_shot_probe(*data, shots=3)
    how: dict[str, Any] = {"shots": 2, "draws": 2, "C": 1.0, "max_iter": 50, "seed": 3}
    how |= {"normalize": True, "standardize": True}
    assert FewShot("objects", "train", **how)(sets) == few_shot_probe(*data, **how) != result
