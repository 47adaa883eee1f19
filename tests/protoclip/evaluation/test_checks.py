import pytest
import torch

from protoclip.evaluation.checks import check_same_dim, checked_features, checked_labels


def test_half_precision_is_raised_and_double_kept() -> None:
    assert checked_features("x", torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    assert checked_features("x", torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_gradients_are_cut() -> None:
    assert not checked_features("x", torch.ones(2, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3), r"x needs 2 axes, got the shape \[3\]"),
        (torch.ones(0, 3), "x is empty"),
        (torch.tensor([[1.0, torch.nan]]), "x holds NaN or infinite values"),
        (torch.tensor([[1.0, torch.inf]]), "x holds NaN or infinite values"),
    ],
)
def test_features_refused(features: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_features("x", features)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"y has the shape \[3\], but there are 2 samples"),
        ([0, -1], "y must be at least 0, got -1"),
        ([0, 4], "y must be below 4, .*, got 4"),
        ([0.0, 1.0], "y must be integers"),
    ],
)
def test_labels_refused(labels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_labels("y", torch.tensor(labels), torch.ones(2, 3), num_classes=4)


def test_dims_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match="a and b differ in dim, 3 and 4"):
        check_same_dim("a", torch.ones(2, 3), "b", torch.ones(2, 4))
