"""Losses of one modality: hand values, slow oracles, lightly's losses, what flows back, and 20 steps down."""

import math

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import masked_lm_loss, ntxent_loss, simsiam_loss
from tests.protoclip.losses.common import DTYPES, go_down, unit_rows


# NT-Xent -------------------------------------------------------------------------------------------------------------
def test_ntxent_hand_value() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # each anchor's own other view, then the two views of the other sample, at temperature .5
    logits = [(2, 0, 1.2), (1.6, 0, 0), (2, 0, 1.2), (1.6, 1.2, 1.2)]
    losses = [math.log(sum(math.exp(value) for value in row)) - row[0] for row in logits]
    assert ntxent_loss(first, second, 0.5).item() == pytest.approx(sum(losses) / 4, rel=1e-6)


def ntxent_oracle(first: Tensor, second: Tensor, temperature: float) -> float:
    views = [*first, *second]
    count, total = len(first), 0.0
    for i, anchor in enumerate(views):
        others = [j for j in range(2 * count) if j != i]
        logits = {j: float(anchor.dot(views[j])) / temperature for j in others}
        total += math.log(sum(math.exp(value) for value in logits.values())) - logits[(i + count) % (2 * count)]
    return total / (2 * count)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_ntxent_is_the_oracle_and_that_of_lightly(temperature: float) -> None:
    first, second = unit_rows(7, 5, 0), unit_rows(7, 5, 1)
    loss = ntxent_loss(first, second, temperature).item()
    assert loss == pytest.approx(ntxent_oracle(first, second, temperature), rel=1e-12)
    assert loss == pytest.approx(NTXentLoss(temperature)(first, second).item(), rel=1e-12)


def test_ntxent_rows_average_to_the_whole() -> None:
    def compute(*slices: slice | None) -> tuple[Tensor, ...]:
        leaves = unit_rows(8, 5, 2).requires_grad_(), unit_rows(8, 5, 3).requires_grad_()
        loss = torch.stack([ntxent_loss(*leaves, rows=rows) for rows in slices]).mean()
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    for ours, theirs in zip(compute(slice(0, 4), slice(4, 8)), compute(None), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_ntxent_gradients_are_exact_and_symmetric() -> None:
    leaves = unit_rows(4, 3, 4).requires_grad_(), unit_rows(4, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda first, second: ntxent_loss(first, second, 0.5), leaves)
    torch.testing.assert_close(ntxent_loss(*leaves), ntxent_loss(leaves[1], leaves[0]), rtol=1e-14, atol=0)


def test_ntxent_goes_down() -> None:
    first, second = unit_rows(6, 5, 6).requires_grad_(), unit_rows(6, 5, 7).requires_grad_()
    start, end = go_down(lambda: ntxent_loss(F.normalize(first), F.normalize(second), 0.5), [first, second])
    assert end < 0.9 * start


def test_ntxent_of_one_sample_has_nothing_to_tell_apart() -> None:
    row = unit_rows(1, 4, 8)
    assert ntxent_loss(row, row).item() == 0.0


def test_ntxent_refuses_other_shapes_and_temperatures() -> None:
    with pytest.raises(ValueError, match="matched rows"):
        ntxent_loss(unit_rows(4, 3, 0), unit_rows(5, 3, 0))
    with pytest.raises(ValueError, match="above 0, not 0"):
        ntxent_loss(unit_rows(4, 3, 0), unit_rows(4, 3, 0), 0.0)


# SimSiam -------------------------------------------------------------------------------------------------------------
def test_simsiam_hand_value() -> None:
    prediction1, prediction2 = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    target1, target2 = torch.tensor([[0.0, -1.0]]), torch.tensor([[6.0, 8.0]])
    assert simsiam_loss(prediction1, prediction2, target1, target2).item() == pytest.approx(-0.5 * (0.6 - 1.0))


def test_simsiam_is_that_of_lightly_and_targets_are_constants() -> None:
    leaves = [3 * unit_rows(6, 5, seed).requires_grad_() for seed in range(4)]
    for leaf in leaves:
        leaf.retain_grad()
    loss = simsiam_loss(leaves[0], leaves[1], leaves[2], leaves[3])
    theirs = NegativeCosineSimilarity()
    expected = 0.5 * (theirs(leaves[0], leaves[3]) + theirs(leaves[1], leaves[2]))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert [leaf.grad is not None for leaf in leaves] == [True, True, False, False]


def test_simsiam_goes_down_to_minus_one() -> None:
    predictions = [unit_rows(6, 5, seed).requires_grad_() for seed in (0, 1)]
    targets = [unit_rows(6, 5, seed) for seed in (2, 3)]
    _, end = go_down(lambda: simsiam_loss(*predictions, *targets), predictions, steps=300)
    assert -1.0 <= end < -0.9


def test_simsiam_refuses_another_width() -> None:
    with pytest.raises(ValueError, match="give the predictor the projector's width"):
        simsiam_loss(*[unit_rows(4, 3, 0)] * 2, *[unit_rows(4, 5, 0)] * 2)


# Masked words --------------------------------------------------------------------------------------------------------
LABELS = torch.tensor([[2, -100, 0], [-100, -100, 4]])


def words(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_words_are_the_oracle(dtype: torch.dtype) -> None:
    logits, losses = words(dtype).requires_grad_(), []
    for place, label in ((0, 0), 2), ((0, 2), 0), ((1, 2), 4):
        row = logits[place].tolist()
        losses.append(math.log(sum(math.exp(value) for value in row)) - row[label])
    loss = masked_lm_loss(logits, LABELS)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(sum(losses) / 3, rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(dim=2) > 0, LABELS != -100)


def test_unequal_shares_add_up_to_the_whole() -> None:
    logits = words()
    parts = [masked_lm_loss(logits[[i]], LABELS[[i]], count=torch.tensor(3)).item() for i in range(2)]
    assert sum(parts) == pytest.approx(masked_lm_loss(logits, LABELS).item(), rel=1e-12)
    assert min(parts) > 0


@pytest.mark.parametrize("count", [None, 0, 7])
def test_nothing_asked_is_zero_with_a_graph(count: int | None) -> None:
    for logits, labels in ((words(), torch.full_like(LABELS, -100)), (words()[0, :0], LABELS[0, :0])):
        leaf = logits.clone().requires_grad_()
        loss = masked_lm_loss(leaf, labels, count=count)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == 0.0
        assert leaf.grad is not None
        assert not bool(leaf.grad.any())
