"""Contrastive losses by a hand value, by a slow oracle, by what flows back, and by 20 steps down."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import SMOOTHINGS, clip_loss
from tests.protoclip.losses.common import DTYPES, go_down, scale, unit_rows


# CLIP's loss ---------------------------------------------------------------------------------------------------------
def test_clip_loss_hand_value() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # logits at scale 2: [[2, 1.2], [0, 1.6]]
    to_text = (math.log(1 + math.exp(1.2 - 2)) + math.log(1 + math.exp(0 - 1.6))) / 2
    to_image = (math.log(1 + math.exp(0 - 2)) + math.log(1 + math.exp(1.2 - 1.6))) / 2
    assert clip_loss(image, text, torch.tensor(2.0)).item() == pytest.approx((to_text + to_image) / 2, rel=1e-6)


def targets_of(kind: str, amount: float, count: int) -> list[list[float]]:
    """PyramidCLIP's softened targets as dense matrices, entry by entry."""
    positive, negative = {
        "literal": (1 - amount + amount / (count - 1), amount / (count - 1)),
        "negatives": (1 - amount, amount / (count - 1)),
        "uniform": (1 - amount + amount / count, amount / count),
    }[kind]
    return [[positive if i == j else negative for j in range(count)] for i in range(count)]


def clip_oracle(image: Tensor, text: Tensor, logit_scale: float, targets: list[list[float]]) -> float:
    count = len(image)
    total = 0.0
    for left, right in ((image, text), (text, image)):
        for i in range(count):
            logits = [logit_scale * float(left[i].dot(right[j])) for j in range(count)]
            log_sum = math.log(sum(math.exp(logit) for logit in logits))
            total -= sum(targets[i][j] * (logits[j] - log_sum) for j in range(count))
    return total / (2 * count)


def test_clip_loss_is_the_oracle() -> None:
    image, text = unit_rows(7, 5, 0), unit_rows(7, 5, 1)
    hard = [[float(i == j) for j in range(7)] for i in range(7)]
    assert clip_loss(image, text, scale()).item() == pytest.approx(clip_oracle(image, text, 9.0, hard), rel=1e-12)


@pytest.mark.parametrize("kind", SMOOTHINGS)
@pytest.mark.parametrize("amount", [0.2, 0.5])
def test_smoothings_are_their_dense_targets(kind: str, amount: float) -> None:
    image, text = unit_rows(6, 5, 2), unit_rows(6, 5, 3)
    loss = clip_loss(image, text, scale(), label_smoothing=amount, smoothing=kind).item()
    assert loss == pytest.approx(clip_oracle(image, text, 9.0, targets_of(kind, amount, 6)), rel=1e-12)


def test_row_sums_of_the_smoothings() -> None:
    """With equal logits the loss is log N times the sum of a row of targets: only ``literal`` is not a distribution."""
    same = torch.ones(5, 3, dtype=torch.float64) / math.sqrt(3)
    sums = {
        kind: clip_loss(same, same, scale(), label_smoothing=0.2, smoothing=kind).item() / math.log(5)
        for kind in SMOOTHINGS
    }
    assert sums == pytest.approx({"negatives": 1.0, "literal": 1 + 0.2 / 4, "uniform": 1.0}, rel=1e-12)


@pytest.mark.parametrize("kind", SMOOTHINGS)
def test_no_smoothing_is_clip_in_every_form(kind: str) -> None:
    image, text = unit_rows(6, 5, 4), unit_rows(6, 5, 5)
    assert torch.equal(clip_loss(image, text, scale(), smoothing=kind), clip_loss(image, text, scale()))


@pytest.mark.parametrize("kind", SMOOTHINGS)
def test_one_pair_can_be_smoothed(kind: str) -> None:
    row = unit_rows(1, 4, 6)
    assert clip_loss(row, row, scale(), label_smoothing=0.2, smoothing=kind).item() == 0.0


def test_clip_loss_is_symmetric() -> None:
    image, text = unit_rows(6, 5, 7), unit_rows(6, 5, 8)
    assert torch.allclose(clip_loss(image, text, scale()), clip_loss(text, image, scale()), rtol=1e-14)


@pytest.mark.parametrize("kind", SMOOTHINGS)
def test_rows_average_to_the_whole(kind: str) -> None:
    """What each of two devices computes on its own anchors, averaged: loss and gradients of one process."""

    def compute(*slices: slice | None) -> tuple[Tensor, ...]:
        leaves = unit_rows(8, 5, 9).requires_grad_(), unit_rows(8, 5, 10).requires_grad_(), scale()
        losses = [clip_loss(*leaves, label_smoothing=0.2, smoothing=kind, rows=rows) for rows in slices]
        loss = torch.stack(losses).mean()
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    whole = compute(None)
    for split in ((slice(0, 4), slice(4, 8)), tuple(slice(i, i + 2) for i in range(0, 8, 2))):
        for ours, theirs in zip(compute(*split), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_loss_keeps_the_dtype_and_reaches_all_leaves(dtype: torch.dtype) -> None:
    image, text = unit_rows(6, 5, 11, dtype).requires_grad_(), unit_rows(6, 5, 12, dtype).requires_grad_()
    logit_scale = scale(dtype=dtype)
    loss = clip_loss(image, text, logit_scale)
    assert loss.dtype == dtype
    loss.backward()  # type: ignore[no-untyped-call]
    for leaf in (image, text, logit_scale):
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        assert bool((leaf.grad != 0).any())


def test_clip_gradients_are_exact() -> None:
    leaves = unit_rows(4, 3, 13).requires_grad_(), unit_rows(4, 3, 14).requires_grad_(), scale(3.0)
    for kind in SMOOTHINGS:
        assert torch.autograd.gradcheck(lambda *x, k=kind: clip_loss(*x, label_smoothing=0.2, smoothing=k), leaves)


def test_clip_loss_goes_down() -> None:
    image, text = unit_rows(6, 5, 15).requires_grad_(), unit_rows(6, 5, 16).requires_grad_()

    def loss() -> Tensor:
        return clip_loss(F.normalize(image, dim=1), F.normalize(text, dim=1), scale(5.0))

    first, last = go_down(loss, [image, text])
    assert last < 0.9 * first


def test_clip_loss_refuses_other_shapes_and_smoothings() -> None:
    with pytest.raises(ValueError, match="matched rows"):
        clip_loss(unit_rows(4, 3, 0), unit_rows(5, 3, 0), scale())
    with pytest.raises(ValueError, match="negatives, literal, uniform, not 'soft'"):
        clip_loss(unit_rows(4, 3, 0), unit_rows(4, 3, 0), scale(), label_smoothing=0.1, smoothing="soft")
    with pytest.raises(ValueError, match="smoothing"):
        clip_loss(unit_rows(4, 3, 0), unit_rows(4, 3, 0), scale(), smoothing="soft")


@pytest.mark.parametrize("kind", SMOOTHINGS)
@pytest.mark.parametrize("amount", [-0.1, 1.0, 1.5])
def test_clip_loss_refuses_amounts_outside_the_unit_interval(kind: str, amount: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        clip_loss(unit_rows(4, 3, 0), unit_rows(4, 3, 0), scale(), label_smoothing=amount, smoothing=kind)
