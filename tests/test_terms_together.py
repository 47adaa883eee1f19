"""Terms of SLIP, DeCLIP, FILIP and SigLIP in one model: every parameter is trained, state stays with the model."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from protoclip.cli.build import build_module
from protoclip.heads import MaskedLMHead, SimCLRHead, SimSiamProjector, TokenProjection
from protoclip.module import ImageTextPretraining
from protoclip.phases import Phase
from protoclip.temperature import Temperature
from protoclip.terms import FILIP, ImageText, MaskedLM, NearestNeighbour, SimCLR, SimSiam
from tests.conftest import Compose
from tests.protoclip.test_module import Plan, batch_of, evaluation_batch, fit, validate

VIEWS = ["image", "image_2"]
TERMS = ("image_text", "simclr", "simsiam", "mlm", "nearest_neighbour", "tokens")


def together(clip: ImageTextPretraining, phases: dict[str, Phase] | None = None) -> ImageTextPretraining:
    """A model with CLIP's towers and all the terms."""
    pairs = [[view, "text"] for view in VIEWS]
    kinds = (
        ImageText(pairs, loss="sigmoid"),
        SimCLR(VIEWS),
        SimSiam(VIEWS, dim=8, hidden_dim=4, norm="layer"),
        MaskedLM(),
        NearestNeighbour(pairs, size=20),
        FILIP(block=3),
    )
    return ImageTextPretraining(
        clip.towers,
        dict(zip(TERMS, kinds, strict=True)),
        {"clip": Temperature(bias=-2.0), "filip": Temperature()},
        heads={
            "simclr": partial(SimCLRHead, hidden_dim=8, out_dim=4, norm="layer"),
            "simsiam": partial(SimSiamProjector, out_dim=8, norm="layer"),
            "mlm": MaskedLMHead,
            "filip": partial(TokenProjection, out_dim=4),
        },
        phases=phases,
        optimizer=clip.optimizer_factory,
        schedule=clip.schedule_factory,
    )


class Views(Dataset[dict[str, Tensor]]):
    """Two views of the same pictures, and captions with masked words."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        batch = batch_of(key[0], seed=key[1])
        labels = torch.full_like(batch["text"], -100)
        labels[:, 2:4] = batch["text"][:, 2:4]
        return {**batch, "image_2": batch["image"].flip(3), "text_labels": labels}


def episodes(steps: int) -> Any:
    return DataLoader(Views(), sampler=Plan(steps), batch_size=None)


@pytest.fixture
def clip(compose_tiny: Compose) -> ImageTextPretraining:
    return build_module(compose_tiny("clip"))


def test_every_parameter_is_trained(clip: ImageTextPretraining) -> None:
    module = together(clip)
    assert set(module.heads) == {"simclr", "simsiam", "mlm", "filip"}
    assert [list(pair) for pair in (module.heads[name] for name in ("simclr", "mlm"))] == [["image"], ["text"]]
    steps = fit(module, episodes(2))
    for name, gradient in steps.gradients[-1].items():
        assert gradient is not None, name
        # the ResNet's keys have a bias that a softmax is blind to
        assert bool(gradient.any()) or name.endswith("k_proj.bias"), name
    assert {f"train/{name}_loss" for name in TERMS} <= set(steps.figures[-1])
    assert steps.figures[0]["train/nearest_neighbour_loss"] == 0.0 < steps.figures[1]["train/nearest_neighbour_loss"]
    assert steps.figures[0]["train/logit_bias/clip"] == -2.0 != steps.figures[1]["train/logit_bias/clip"]


def test_inactive_terms_have_gradients_of_zero_and_a_queue_that_fills(clip: ImageTextPretraining) -> None:
    weights = dict.fromkeys(TERMS, 0.0) | {"tokens": 1.0}
    module = together(clip, {"warmup": Phase(1, weights)})
    steps = fit(module, episodes(1))
    active = {name for name, gradient in steps.gradients[0].items() if gradient is not None and bool(gradient.any())}
    assert all(gradient is not None for gradient in steps.gradients[0].values())
    assert not [name for name in active if name.split(".")[1] in {"simclr", "simsiam", "mlm", "clip"}]
    assert "temperatures.filip.log_scale" in active
    assert int(module.state_dict()["terms.nearest_neighbour.seen"]) == 8


def test_the_queue_and_the_bias_are_in_the_checkpoint(clip: ImageTextPretraining) -> None:
    module = together(clip)
    fit(module, episodes(3))
    state = module.state_dict()
    assert int(state["terms.nearest_neighbour.seen"]) == 24
    assert state["terms.nearest_neighbour.queue"].shape == (20, 16)
    assert "temperatures.clip.bias" in state
    assert "terms.simsiam.predictor.layers.0.weight" in state


def test_image_text_and_tokens_validate(clip: ImageTextPretraining) -> None:
    module, batch = together(clip), evaluation_batch()
    loss, _ = validate(module, [batch])
    module.terms["tokens"].validates = False
    less, _ = validate(module, [batch])
    module.terms["image_text"].validates = False
    assert 0 < less < loss
