"""The prototype loss by a hand value, by a slow oracle, by what flows back, and by 20 steps down."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import prototype_loss
from tests.protoclip.losses.common import DTYPES, go_down, scale, unit_rows

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
