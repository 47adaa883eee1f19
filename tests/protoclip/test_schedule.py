import math

import pytest
import torch
from torch import nn

from protoclip.heads import LinearHead, SimCLRHead
from protoclip.schedule import WarmupCosine, parameter_groups


def test_warm_up_is_linear_from_the_first_step() -> None:
    factor = WarmupCosine(warmup=0.1)(100)
    assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_cosine_from_the_peak_to_zero() -> None:
    factor = WarmupCosine(warmup=0.1)(100)
    for step in range(10, 101):
        assert factor(step) == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 10) / 90)), abs=1e-12)
    assert factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0, abs=1e-12)
    assert factor(101) == factor(100)  # the scheduler looks one step beyond the end


def test_final_factor() -> None:
    factor = WarmupCosine(warmup=0.0, final=0.1)(50)
    assert factor(0) == 1.0
    assert factor(25) == pytest.approx(0.55)
    assert factor(50) == pytest.approx(0.1)


def test_a_stop_is_where_the_cosine_ends() -> None:
    common, stopped = WarmupCosine(warmup=0.1, final=0.2)(100), WarmupCosine(warmup=0.1, final=0.2)(100, stop=50)
    assert [stopped(step) for step in range(11)] == [common(step) for step in range(11)]
    assert [stopped(step) for step in (20, 30, 40)] == pytest.approx(
        [(2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]
    )
    assert stopped(49) > 0
    assert [stopped(step) for step in (50, 51, 100)] == [0.0] * 3


@pytest.mark.parametrize("stop", [0, 5, 10])
def test_refuses_a_stop_before_the_warm_up_has_ended(stop: int) -> None:
    with pytest.raises(ValueError, match=f"10 steps cannot be 0 at step {stop}"):
        WarmupCosine(warmup=0.1)(100, stop=stop)


@pytest.mark.parametrize("total", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_short_runs_stay_in_range(total: int, warmup: float) -> None:
    factor = WarmupCosine(warmup=warmup)(total)
    factors = [factor(step) for step in range(total)]
    assert all(0 < value <= 1 for value in factors)
    assert max(factors) == 1.0


@pytest.mark.parametrize("warmup", [-0.1, 1.1, 15_625])
def test_refuses_a_warm_up_that_is_no_fraction(warmup: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.warmup is a fraction"):
        WarmupCosine(warmup=warmup)(100)


def test_warm_up_rises_from_its_start() -> None:
    factor = WarmupCosine(warmup=0.1, start=0.2)(100)
    assert [factor(step) for step in (0, 4, 9)] == pytest.approx([0.28, 0.6, 1.0])


def test_drives_the_optimizer_step_by_step() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=4.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(warmup=0.5)(8))
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1, 2, 3, 4, 4, *(2 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3))])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(
            {
                "image": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
                "text": nn.ModuleDict({"token_embedding": nn.Embedding(5, 4), "ln_final": nn.LayerNorm(4)}),
            }
        )
        self.towers["text"].register_parameter("text_projection", nn.Parameter(torch.zeros(4, 4)))
        self.heads = nn.ModuleDict(
            {"prototype": nn.ModuleDict({tower: LinearHead(4, 4) for tower in ("image", "text")})}
        )
        self.heads["simclr"] = nn.ModuleDict({"image": SimCLRHead(4, 4, 4, hidden_layers=0)})
        self.temperatures = nn.ModuleDict({"clip": nn.ParameterDict({"log_scale": nn.Parameter(torch.zeros(()))})})


def names_of(model: nn.Module) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in parameter_groups(model, 0.5)
    }


def test_four_groups() -> None:
    heads = {f"heads.prototype.{tower}.linear.weight" for tower in ("image", "text")} | {
        "heads.simclr.image.layers.0.bias"
    }
    assert names_of(Model()) == {
        "image_tower/decay": {"towers.image.0.weight"},
        "image_tower/no_decay": {"towers.image.0.bias", "towers.image.1.weight", "towers.image.1.bias"},
        "rest/decay": {
            "towers.text.token_embedding.weight",
            "towers.text.text_projection",
            "heads.simclr.image.layers.0.weight",
        },
        "rest/no_decay": {
            "towers.text.ln_final.weight",
            "towers.text.ln_final.bias",
            "temperatures.clip.log_scale",
            *heads,
        },
    }


def test_decay_of_each_group() -> None:
    decays = {group["name"]: group["weight_decay"] for group in parameter_groups(Model(), 0.5)}
    assert decays == {
        "image_tower/decay": 0.5,
        "image_tower/no_decay": 0.0,
        "rest/decay": 0.5,
        "rest/no_decay": 0.0,
    }


def test_frozen_parameters_are_left_out_and_every_other_is_in_one_group() -> None:
    model = Model()
    model.towers["image"].requires_grad_(False)
    groups = names_of(model)
    assert set(groups) == {"rest/decay", "rest/no_decay"}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(name for group in groups.values() for name in group) == sorted(trained)
