"""Contrastive losses by a hand value, by a slow oracle, by what flows back, and by 20 steps down."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import SMOOTHINGS, clip_loss, nearest_neighbour_loss, sigmoid_loss
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


def test_clip_loss_refuses_other_smoothings() -> None:
    with pytest.raises(ValueError, match="negatives, literal, uniform, not 'soft'"):
        clip_loss(unit_rows(4, 3, 0), unit_rows(4, 3, 0), scale(), label_smoothing=0.1, smoothing="soft")
    with pytest.raises(ValueError, match="smoothing"):
        clip_loss(unit_rows(4, 3, 0), unit_rows(4, 3, 0), scale(), smoothing="soft")


@pytest.mark.parametrize("kind", SMOOTHINGS)
@pytest.mark.parametrize("amount", [-0.1, 1.0, 1.5])
def test_clip_loss_refuses_amounts_outside_the_unit_interval(kind: str, amount: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        clip_loss(unit_rows(4, 3, 0), unit_rows(4, 3, 0), scale(), label_smoothing=amount, smoothing=kind)


def test_clip_loss_is_that_of_open_clip() -> None:
    from open_clip.loss import ClipLoss

    image, text = unit_rows(7, 5, 20), unit_rows(7, 5, 21)
    assert clip_loss(image, text, scale()).item() == pytest.approx(ClipLoss()(image, text, scale()).item(), rel=1e-12)


# SigLIP's loss -------------------------------------------------------------------------------------------------------
def bias(value: float = -3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def test_sigmoid_loss_hand_value() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # logits at scale 2 and bias -1: [[1, .2], [-1, .6]], negative where they match
    signed = (-1.0, 0.2, -1.0, -0.6)
    expected = sum(math.log(1 + math.exp(value)) for value in signed) / 2
    assert sigmoid_loss(image, text, torch.tensor(2.0), torch.tensor(-1.0)).item() == pytest.approx(expected, rel=1e-6)


def test_sigmoid_loss_is_the_oracle_and_that_of_open_clip() -> None:
    from open_clip.loss import SigLipLoss

    image, text = unit_rows(7, 5, 22), unit_rows(7, 5, 23)
    total = 0.0
    for i in range(7):
        for j in range(7):
            logit = 9.0 * float(image[i].dot(text[j])) - 3.0
            total += math.log(1 + math.exp(-logit if i == j else logit))
    loss = sigmoid_loss(image, text, scale(), bias()).item()
    assert loss == pytest.approx(total / 7, rel=1e-12)
    assert loss == pytest.approx(SigLipLoss()(image, text, scale(), bias()).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_loss_stays_finite_at_large_logits(dtype: torch.dtype) -> None:
    leaves = unit_rows(6, 5, 24, dtype).requires_grad_(), scale(1e4, dtype), bias(-1e3, dtype)
    loss = sigmoid_loss(leaves[0], -leaves[0], leaves[1], leaves[2])
    assert loss.dtype == dtype
    assert all(bool(value.isfinite().all()) for value in (loss, *torch.autograd.grad(loss, leaves)))


# Nearest neighbours --------------------------------------------------------------------------------------------------
def test_nearest_neighbour_loss_hand_values() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    neighbours = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # logits at scale 2: [[2, 1.2], [0, 1.6]]
    to_neighbour = (math.log(1 + math.exp(1.2 - 2)) + math.log(1 + math.exp(0 - 1.6))) / 2
    to_image = (math.log(1 + math.exp(0 - 2)) + math.log(1 + math.exp(1.2 - 1.6))) / 2
    one_way = nearest_neighbour_loss(image, neighbours, torch.tensor(2.0)).item()
    assert one_way == pytest.approx(to_neighbour, rel=1e-6)
    both = nearest_neighbour_loss(image, neighbours, torch.tensor(2.0), symmetric=True).item()
    assert both == pytest.approx((to_neighbour + to_image) / 2, rel=1e-6)


def test_nearest_neighbour_loss_is_the_oracle() -> None:
    image, neighbours = unit_rows(7, 5, 25), unit_rows(7, 5, 26)
    total = 0.0
    for i in range(7):
        logits = [9.0 * float(image[i].dot(row)) for row in neighbours]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[i]
    assert nearest_neighbour_loss(image, neighbours, scale()).item() == pytest.approx(total / 7, rel=1e-12)
    symmetric = nearest_neighbour_loss(image, neighbours, scale(), symmetric=True)
    torch.testing.assert_close(symmetric, clip_loss(image, neighbours, scale()), rtol=1e-14, atol=0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_neighbours_are_constants(symmetric: bool) -> None:
    leaves = unit_rows(6, 5, 27).requires_grad_(), unit_rows(6, 5, 28, torch.float32).requires_grad_(), scale()
    loss = nearest_neighbour_loss(*leaves, symmetric=symmetric)
    assert loss.dtype == torch.float64
    loss.backward()  # type: ignore[no-untyped-call]
    assert [leaf.grad is not None for leaf in leaves] == [True, False, True]


# All of them ---------------------------------------------------------------------------------------------------------
Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {
    "clip": clip_loss,
    **{kind: lambda *x, k=kind, **o: clip_loss(*x, label_smoothing=0.2, smoothing=k, **o) for kind in SMOOTHINGS},
    "sigmoid": lambda i, t, s, **options: sigmoid_loss(i, t, s, bias(), **options),
    "neighbour": lambda i, t, s, **options: nearest_neighbour_loss(i, t.detach(), s, **options) + 0 * t.sum(),
    "symmetric": lambda i, t, s, **o: nearest_neighbour_loss(i, t.detach(), s, symmetric=True, **o) + 0 * t.sum(),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
VALID = torch.tensor([True, False, False, True, True, True, False, False])
"""In slices of two rows: one, one, two and none."""


def compute(loss: Loss, *slices: slice | None, valid: Tensor | None = None) -> tuple[Tensor, ...]:
    """The mean over slices, as devices have it, and its gradients."""
    leaves = unit_rows(8, 5, 30).requires_grad_(), unit_rows(8, 5, 31).requires_grad_(), scale()
    mean = torch.stack([loss(*leaves, rows=rows, valid=valid) for rows in slices]).mean()
    return mean.detach(), *torch.autograd.grad(mean, leaves)


@each_loss
@pytest.mark.parametrize("valid", [None, VALID])
def test_slices_average_to_the_whole(loss: Loss, valid: Tensor | None) -> None:
    whole = compute(loss, None, valid=valid)
    for size in (4, 2):
        parts = [slice(start, start + size) for start in range(0, 8, size)]
        for ours, theirs in zip(compute(loss, *parts, valid=valid), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@each_loss
def test_rows_that_are_left_out_are_neither_anchors_nor_candidates(loss: Loss) -> None:
    image, text = unit_rows(8, 5, 30), unit_rows(8, 5, 31)
    expected = loss(image[VALID], text[VALID], scale())
    value, image_gradient, text_gradient, _ = compute(loss, None, valid=VALID)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    assert torch.equal(image_gradient.any(dim=1), VALID)
    assert not bool(text_gradient[~VALID].any())


@each_loss
def test_no_row_at_all_is_zero_with_a_graph(loss: Loss) -> None:
    for value in compute(loss, slice(0, 4), slice(4, 8), valid=torch.zeros_like(VALID)):
        assert not bool(value.any())


@each_loss
def test_gradients_are_exact(loss: Loss) -> None:
    image, text = unit_rows(4, 3, 32).requires_grad_(), unit_rows(4, 3, 33)
    assert torch.autograd.gradcheck(lambda image, scale: loss(image, text, scale), (image, scale(3.0)))


@each_loss
def test_goes_down(loss: Loss) -> None:
    image, text = unit_rows(6, 5, 34).requires_grad_(), unit_rows(6, 5, 35).requires_grad_()
    first, last = go_down(lambda: loss(F.normalize(image, dim=1), F.normalize(text, dim=1), scale(5.0)), [image, text])
    assert last < 0.95 * first


@pytest.mark.parametrize("loss", ["clip", "sigmoid", "neighbour"])
def test_refuses_rows_that_do_not_match(loss: str) -> None:
    with pytest.raises(ValueError, match="_loss needs matched rows"):
        LOSSES[loss](unit_rows(4, 3, 0), unit_rows(5, 3, 0), scale())
