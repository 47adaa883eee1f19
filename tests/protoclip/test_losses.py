"""Each loss by a hand value, by a slow oracle, by what flows back, and by 20 steps down."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import SMOOTHINGS, clip_loss, prototype_loss

DTYPES = (torch.float32, torch.float64)


def unit_rows(count: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def scale(value: float = 9.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def go_down(loss: Callable[[], Tensor], parameters: list[Tensor], steps: int = 20) -> tuple[float, float]:
    """Loss before and after gradient steps."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    first = loss().item()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return first, loss().item()


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


# Prototype loss ------------------------------------------------------------------------------------------------------
LABELS = torch.tensor([0, 2, 1, 2, 3, 0])


def centroids(dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Four centroids shorter than unit length, as K-means makes them."""
    return unit_rows(4, dim, seed, dtype) * torch.tensor([0.5, 0.7, 0.6, 0.9], dtype=dtype)[:, None]


def test_prototype_loss_hand_values() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    prototypes = torch.tensor([[0.5, 0.0], [0.0, 0.25]])
    labels = torch.tensor([0, 0])
    # logits at scale 2: [[1, 0], [0, .5]]
    hard = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))) / 2
    assert prototype_loss(student, prototypes, torch.tensor(2.0), labels).item() == pytest.approx(hard, rel=1e-6)
    # C[0] @ C.T / .5 = [.5, 0]: not one-hot, and of the raw centroid's length
    own = math.exp(0.5) / (math.exp(0.5) + 1)
    rows = [own * math.log(1 + math.exp(-1)) + (1 - own) * math.log(1 + math.exp(1))]
    rows += [own * math.log(1 + math.exp(0.5)) + (1 - own) * math.log(1 + math.exp(-0.5))]
    soft = prototype_loss(
        student, prototypes, torch.tensor(2.0), labels, teacher_centroids=prototypes, target_temperature=0.5
    )
    assert soft.item() == pytest.approx(sum(rows) / 2, rel=1e-6)


def prototype_oracle(
    student: Tensor, prototypes: Tensor, labels: Tensor, kept: list[int], teacher: Tensor | None, temperature: float
) -> float:
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        logits = {k: 9.0 * float(student[i].dot(prototypes[k])) for k in kept}
        log_sum = math.log(sum(math.exp(value) for value in logits.values()))
        if teacher is None:
            target = {k: float(k == label) for k in kept}
        else:
            mass = {k: math.exp(float(teacher[label].dot(teacher[k])) / temperature) for k in kept}
            target = {k: value / sum(mass.values()) for k, value in mass.items()}
        total -= sum(target[k] * (logits[k] - log_sum) for k in kept)
    return total / len(labels)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("empty", [None, 1])
def test_prototype_loss_is_the_oracle(soft: bool, empty: int | None) -> None:
    student, prototypes = unit_rows(6, 5, 0), centroids(5, 1)
    teacher, labels = centroids(3, 2), LABELS.clone()
    valid = None
    if empty is not None:
        labels[labels == empty] = 0
        valid = torch.arange(4) != empty
    loss = prototype_loss(
        student,
        prototypes,
        scale(),
        labels,
        teacher_centroids=teacher if soft else None,
        target_temperature=0.1 if soft else None,
        valid=valid,
    )
    kept = [k for k in range(4) if k != empty]
    expected = prototype_oracle(student, prototypes, labels, kept, teacher if soft else None, 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_soft_loss_is_cross_entropy_with_the_dense_targets() -> None:
    student, prototypes, teacher = unit_rows(6, 5, 3), centroids(5, 4), centroids(3, 5)
    targets = torch.softmax(teacher @ teacher.T / 0.01, dim=1)[LABELS]
    loss = prototype_loss(student, prototypes, scale(), LABELS, teacher_centroids=teacher, target_temperature=0.01)
    torch.testing.assert_close(loss, F.cross_entropy(9.0 * student @ prototypes.T, targets), rtol=1e-12, atol=0)


def test_hard_loss_does_not_look_at_the_teacher() -> None:
    student, prototypes = unit_rows(6, 5, 6), centroids(5, 7)
    loss = prototype_loss(student, prototypes, scale(), LABELS, teacher_centroids=centroids(3, 8))
    torch.testing.assert_close(loss, F.cross_entropy(9.0 * student @ prototypes.T, LABELS), rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_empty_prototypes_are_zero_rows_or_left_out(temperature: float | None) -> None:
    """By default a zero row takes part with logit 0; with ``valid`` the loss is that without the row."""
    student, kept, teacher = unit_rows(6, 5, 9), centroids(5, 10), centroids(3, 11)
    row = torch.zeros(1, 5, dtype=torch.float64)
    with_empty, teachers = torch.cat([kept, row]), torch.cat([teacher, row[:, :3]])
    valid = torch.tensor([True] * 4 + [False])

    def loss(prototypes: Tensor, centroids: Tensor, valid: Tensor | None = None) -> Tensor:
        return prototype_loss(
            student,
            prototypes,
            scale(),
            LABELS,
            teacher_centroids=centroids,
            target_temperature=temperature,
            valid=valid,
        )

    torch.testing.assert_close(loss(with_empty, teachers, valid), loss(kept, teacher), rtol=1e-12, atol=0)
    assert loss(with_empty, teachers).item() > loss(kept, teacher).item() + 1e-3
    if temperature is None:
        logits = torch.cat([9.0 * student @ kept.T, torch.zeros(6, 1, dtype=torch.float64)], dim=1)
        torch.testing.assert_close(loss(with_empty, teachers), F.cross_entropy(logits, LABELS), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [None, 0.01])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_reach_features_and_scale_alone(dtype: torch.dtype, temperature: float | None, masked: bool) -> None:
    student, logit_scale = unit_rows(6, 5, 12, dtype).requires_grad_(), scale(dtype=dtype)
    constants = centroids(5, 13, dtype).requires_grad_(), centroids(3, 14, dtype).requires_grad_()
    loss = prototype_loss(
        student,
        constants[0],
        logit_scale,
        LABELS.clamp(max=2),
        teacher_centroids=constants[1],
        target_temperature=temperature,
        valid=torch.tensor([True, True, True, False]) if masked else None,
    )
    assert loss.dtype == dtype
    loss.backward()  # type: ignore[no-untyped-call]
    for leaf in (student, logit_scale):
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        assert bool(leaf.grad.isfinite().all())
        assert bool((leaf.grad != 0).any())
    assert [constant.grad for constant in constants] == [None, None]


def test_float32_centroids_serve_float64_features() -> None:
    """Banks stay in float32 where a test or a user trains in float64."""
    student, narrow = unit_rows(6, 5, 15), centroids(5, 16, torch.float32)
    loss = prototype_loss(student, narrow, scale(), LABELS, teacher_centroids=narrow, target_temperature=0.1)
    wide = prototype_loss(
        student, narrow.double(), scale(), LABELS, teacher_centroids=narrow.double(), target_temperature=0.1
    )
    assert loss.dtype == torch.float64
    assert torch.equal(loss, wide)


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_prototype_loss_goes_down(temperature: float | None) -> None:
    student, prototypes, teacher = unit_rows(6, 5, 17).requires_grad_(), centroids(5, 18), centroids(3, 19)

    def loss() -> Tensor:
        features = F.normalize(student, dim=1)
        return prototype_loss(
            features, prototypes, scale(5.0), LABELS, teacher_centroids=teacher, target_temperature=temperature
        )

    first, last = go_down(loss, [student])
    assert last < 0.9 * first


def test_prototype_loss_refuses_soft_targets_without_a_teacher() -> None:
    with pytest.raises(ValueError, match="teacher_centroids"):
        prototype_loss(unit_rows(6, 5, 0), centroids(5, 1), scale(), LABELS, target_temperature=0.01)
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="target temperature"):
            prototype_loss(
                unit_rows(6, 5, 0),
                centroids(5, 1),
                scale(),
                LABELS,
                teacher_centroids=centroids(5, 1),
                target_temperature=temperature,
            )
