import math

import pytest
import torch

from protoclip.prototypes import soft_targets

CENTROIDS = torch.tensor([[0.5, 0.0], [0.9, 0.1], [0.0, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize("empty", [None, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_is_the_loop(temperature: float, empty: int | None) -> None:
    labels = [1, 0, 0, 2] if empty is None else [1, 0, 0, 1]
    valid = None if empty is None else torch.arange(3) != empty
    targets = soft_targets(CENTROIDS, torch.tensor(labels), temperature, valid=valid)
    for i, label in enumerate(labels):
        mass = [
            0.0 if k == empty else math.exp(float(CENTROIDS[label].dot(CENTROIDS[k])) / temperature) for k in range(3)
        ]
        assert targets[i].tolist() == pytest.approx([value / sum(mass) for value in mass], rel=1e-9)


def test_own_prototype_is_not_always_the_most_likely() -> None:
    """Centroids are raw: the longer neighbour attracts more than the short own one."""
    assert soft_targets(CENTROIDS, torch.tensor([0]), 0.1).argmax().item() == 1


def test_no_gradient_and_no_overflow() -> None:
    centroids = (100 * CENTROIDS).float().requires_grad_()
    targets = soft_targets(centroids, torch.tensor([0, 1]), 0.01)
    assert not targets.requires_grad
    assert bool(targets.isfinite().all())
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_refuses_temperatures_of_zero_or_less(temperature: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        soft_targets(CENTROIDS, torch.tensor([0]), temperature)
