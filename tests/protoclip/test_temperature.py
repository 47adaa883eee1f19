import math

import pytest
import torch

from protoclip.temperature import Temperature


def test_starts_as_clip() -> None:
    temperature = Temperature()
    assert temperature.log_scale.item() == pytest.approx(2.6593, abs=5e-5)
    assert temperature().item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert temperature().shape == ()


@pytest.mark.parametrize(
    ("value", "clamped"), [(-0.5, 0.0), (0.0, 0.0), (2.0, 2.0), (4.6, 4.6), (5.0, math.log(100)), (1e9, math.log(100))]
)
def test_clamp(value: float, clamped: float) -> None:
    temperature = Temperature()
    temperature.log_scale.data.fill_(value)
    temperature.clamp()
    assert temperature.log_scale.item() == pytest.approx(clamped, rel=1e-6)
    assert temperature.log_scale.requires_grad


def test_clamp_takes_its_range_from_the_option() -> None:
    temperature = Temperature(init=1.0, max_scale=10.0)
    assert temperature().item() == 1.0
    temperature.log_scale.data.fill_(3.0)
    temperature.clamp()
    assert temperature().item() == pytest.approx(10.0, rel=1e-6)


def test_gradient_is_that_of_the_logarithm() -> None:
    temperature = Temperature(init=0.5)
    (3.0 * temperature()).backward()
    assert temperature.log_scale.grad is not None
    assert temperature.log_scale.grad.item() == pytest.approx(6.0, rel=1e-6)


def test_state_is_the_parameter() -> None:
    assert list(Temperature().state_dict()) == ["log_scale"]
    other = Temperature(init=1.0)
    other.load_state_dict(Temperature(init=0.2).state_dict())
    assert torch.allclose(other(), torch.tensor(5.0))


def test_a_bias_is_learnt_and_not_clamped() -> None:
    temperature = Temperature(init=0.1, bias=-10)
    assert list(temperature.state_dict()) == ["log_scale", "bias"]
    assert temperature.bias is not None
    assert temperature.bias.requires_grad
    assert temperature.bias.ndim == 0
    temperature.bias.data.fill_(-200.0)
    temperature.clamp()
    assert temperature.bias.item() == -200.0
    assert temperature().item() == pytest.approx(10.0, rel=1e-6)
    assert Temperature().bias is None
