"""Losses against a teacher's features: hand values, slow oracles, what flows back, and 20 steps down."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import affinity_distillation_loss, clip_loss, feature_distillation_loss
from tests.protoclip.losses.common import DTYPES, go_down, scale, unit_rows


def of_any_length(count: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A teacher's features, as they come out of a PCA."""
    return unit_rows(count, dim, seed, dtype) * torch.linspace(0.5, 3, count, dtype=dtype)[:, None]


def test_feature_distillation_hand_value() -> None:
    predicted, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, -1.0]])
    assert feature_distillation_loss(predicted, teacher).item() == pytest.approx((5 + 10) / 2)


def test_feature_distillation_is_the_oracle() -> None:
    predicted, teacher = 3 * unit_rows(7, 5, 0), 2 * unit_rows(7, 5, 1)
    expected = sum(float(predicted[i, k] - teacher[i, k]) ** 2 for i in range(7) for k in range(5)) / 7
    assert feature_distillation_loss(predicted, teacher).item() == pytest.approx(expected, rel=1e-12)


def affinity(image: Tensor, text: Tensor, teacher: Tensor, logit_scale: Tensor, rows: slice | None = None) -> Tensor:
    return affinity_distillation_loss(image, text, teacher, logit_scale, teacher_temperature=0.3, rows=rows)


def test_affinity_distillation_hand_value() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    teacher = torch.tensor([[5.0, 0.0], [1.8, 2.4]])  # cosine .6
    # logits at scale 2: [[2, 1.2], [0, 1.6]]; the teacher's at .5: [[2, 1.2], [1.2, 2]], p of the pair itself:
    p = 1 / (1 + math.exp(1.2 - 2))
    rows = ((2, 1.2), (1.6, 0), (2, 0), (1.6, 1.2))  # own and other logit of each anchor, both directions
    expected = sum(math.log(math.exp(a) + math.exp(b)) - p * a - (1 - p) * b for a, b in rows) / 4
    loss = affinity_distillation_loss(image, text, teacher, torch.tensor(2.0), teacher_temperature=0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def affinity_oracle(image: Tensor, text: Tensor, teacher: Tensor, logit_scale: float, temperature: float) -> float:
    """Entry by entry."""
    count = len(image)
    total = 0.0
    for left, right in ((image, text), (text, image)):
        for i in range(count):
            cosines = [float(teacher[i].dot(t) / (teacher[i].norm() * t.norm())) for t in teacher]
            masses = [math.exp(cosine / temperature) for cosine in cosines]
            logits = [logit_scale * float(left[i].dot(row)) for row in right]
            log_sum = math.log(sum(math.exp(logit) for logit in logits))
            total -= sum(mass / sum(masses) * (logit - log_sum) for mass, logit in zip(masses, logits, strict=True))
    return total / (2 * count)


def test_affinity_distillation_is_the_oracle() -> None:
    image, text, teacher = unit_rows(7, 5, 0), unit_rows(7, 5, 1), of_any_length(7, 3, 2)
    expected = affinity_oracle(image, text, teacher, 9.0, 0.3)
    assert affinity(image, text, teacher, scale()).item() == pytest.approx(expected, rel=1e-12)


def test_a_cold_teacher_of_unlike_pairs_is_clip() -> None:
    image, text = unit_rows(5, 5, 3), unit_rows(5, 5, 4)
    loss = affinity_distillation_loss(image, text, 4 * torch.eye(5), scale(), teacher_temperature=0.01)
    torch.testing.assert_close(loss, clip_loss(image, text, scale()), rtol=1e-12, atol=0)


def test_rows_of_affinity_distillation_average_to_the_whole() -> None:
    teacher = of_any_length(8, 3, 7)

    def compute(*slices: slice | None) -> tuple[Tensor, ...]:
        leaves = unit_rows(8, 5, 5).requires_grad_(), unit_rows(8, 5, 6).requires_grad_(), scale()
        losses = [affinity(leaves[0], leaves[1], teacher, leaves[2], rows) for rows in slices]
        loss = torch.stack(losses).mean()
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    for ours, theirs in zip(compute(slice(0, 4), slice(4, 8)), compute(None), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_distillation_reaches_the_student_alone(dtype: torch.dtype) -> None:
    """Also where a teacher's cache is in another precision."""
    student = [unit_rows(6, 5, seed, dtype).requires_grad_() for seed in (8, 9)]
    teacher, logit_scale = of_any_length(6, 5, 10, torch.float32).requires_grad_(), scale(dtype=dtype)
    losses = [feature_distillation_loss(student[0], teacher), affinity(student[0], student[1], teacher, logit_scale)]
    for loss in losses:
        assert loss.dtype == dtype
        loss.backward()  # type: ignore[no-untyped-call]
    for leaf in (*student, logit_scale):
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        assert bool((leaf.grad != 0).any())
    assert teacher.grad is None


def test_distillation_goes_down() -> None:
    image, text, teacher = (
        unit_rows(6, 5, 11).requires_grad_(),
        unit_rows(6, 5, 12).requires_grad_(),
        unit_rows(6, 5, 13),
    )
    first, last = go_down(lambda: feature_distillation_loss(image, teacher), [image])
    assert last < 0.9 * first
    entropy = affinity_oracle(teacher, teacher, teacher, 1 / 0.3, 0.3)  # what no student goes below

    def loss() -> Tensor:
        return affinity(F.normalize(image, dim=1), F.normalize(text, dim=1), teacher, scale(5.0))

    first, last = go_down(loss, [image, text])
    assert last - entropy < 0.9 * (first - entropy)


def test_distillation_refuses_what_does_not_match() -> None:
    with pytest.raises(ValueError, match=r"prediction \(6, 5\) of teacher features \(6, 4\)"):
        feature_distillation_loss(unit_rows(6, 5, 0), unit_rows(6, 4, 0))
    with pytest.raises(ValueError, match="got 6, 6, 5"):
        affinity(unit_rows(6, 5, 0), unit_rows(6, 5, 0), unit_rows(5, 5, 0), scale())
    rows = unit_rows(6, 5, 0)
    with pytest.raises(ValueError, match="teacher_temperature is above 0, not 0"):
        affinity_distillation_loss(rows, rows, rows, scale(), teacher_temperature=0.0)
