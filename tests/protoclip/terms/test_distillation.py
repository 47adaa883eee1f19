"""The terms on one process, on two, and from their yaml."""

from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
from hydra import compose, initialize_config_module
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from protoclip.cli.build import build_module
from protoclip.distributed import local_rows, world_size
from protoclip.heads import LinearHead
from protoclip.losses import affinity_distillation_loss, feature_distillation_loss
from protoclip.terms import AffinityDistillation, FeatureDistillation, FeatureKey, StepInputs, Term
from tests.conftest import TINY
from tests.gloo import Pool

BATCH, WIDTH, DIM, TEACHER_DIM = 8, 6, 5, 4


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEACHER = normal(BATCH, TEACHER_DIM, seed=9)


def inputs(**options: Any) -> StepInputs:
    features = {}
    for place, tower in enumerate(("image", "text")):
        features[FeatureKey(tower, tower, "features")] = F.normalize(normal(BATCH, DIM, seed=place), dim=1)
        features[FeatureKey(tower, tower, "distillation")] = normal(BATCH, TEACHER_DIM, seed=2 + place)
    scales = {"distillation": torch.tensor(7.0, dtype=torch.float64), "clip": torch.tensor(3.0, dtype=torch.float64)}
    return StepInputs(features, scales, {}, torch.arange(BATCH), block=0, teachers={"minilm": TEACHER}, **options)


@pytest.mark.parametrize(("modality", "towers"), [("image", ["image"]), ("text", ["text"]), (None, ["image", "text"])])
def test_feature_distillation_is_the_mean_over_its_modalities(modality: Any, towers: list[str]) -> None:
    given = inputs()
    term = FeatureDistillation("minilm", modality=modality)
    keys = [FeatureKey(tower, tower, "distillation") for tower in towers]
    expected = torch.stack([feature_distillation_loss(given.features[key], TEACHER) for key in keys]).mean()
    assert term(given).keys() == {"loss"}
    assert torch.equal(term(given)["loss"], expected)
    assert term.required == tuple(keys)


def test_affinity_distillation_reads_its_temperatures() -> None:
    given = inputs()
    image, text = (given.features[FeatureKey(tower, tower, "features")] for tower in ("image", "text"))
    for name, scale in given.logit_scales.items():
        term = AffinityDistillation("minilm", temperature=name, teacher_temperature=0.3)
        expected = affinity_distillation_loss(image, text, TEACHER, scale, teacher_temperature=0.3)
        assert term(given).keys() == {"loss"}
        assert torch.equal(term(given)["loss"], expected)


def test_names_are_bindings() -> None:
    feature = FeatureDistillation("roberta", image="crop", text="summary", head="map", weight=0.5)
    assert feature.required == (FeatureKey("image", "crop", "map"), FeatureKey("text", "summary", "map"))
    assert (feature.teachers, feature.temperatures, feature.weight) == (("roberta",), (), 0.5)
    affinity = AffinityDistillation("roberta", image="crop", text="summary", temperature="warm", weight=0.5)
    assert affinity.required == (FeatureKey("image", "crop", "features"), FeatureKey("text", "summary", "features"))
    assert (affinity.teachers, affinity.temperatures, affinity.weight) == (("roberta",), ("warm",), 0.5)
    assert not feature.validates  # evaluation sets have no teacher
    assert not affinity.validates


def test_refuses_another_modality() -> None:
    unknown: Any = "both"
    with pytest.raises(ValueError, match=r"distillation\.modality is image, text or null, not 'both'"):
        FeatureDistillation("minilm", modality=unknown)


# Two processes -------------------------------------------------------------------------------------------------------
class Student(nn.Module):
    """Linear towers with linear heads and a temperature under one term; layer norm, so that rows do not meet."""

    def __init__(self, term: Term) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleDict({name: nn.Linear(WIDTH, DIM) for name in ("image", "text")})
        self.norm = nn.LayerNorm(DIM)
        self.heads = nn.ModuleDict({name: LinearHead(DIM, TEACHER_DIM) for name in ("image", "text")})
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.term = term
        self.double()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        features = {}
        for name in ("image", "text"):
            embedding = self.norm(self.towers[name](batch[name]))
            features[FeatureKey(name, name, "features")] = F.normalize(embedding, dim=1)
            features[FeatureKey(name, name, "distillation")] = self.heads[name](embedding)
        given = StepInputs(
            features=features,
            logit_scales={"distillation": self.log_scale.exp()},
            banks={},
            positions=batch["position"],
            block=0,
            gathers=True,
            teachers={"minilm": batch["teacher"].float()},  # as caches keep them
        )
        return cast(Tensor, self.term(given)["loss"])


TERMS: dict[str, Term] = {
    "feature": FeatureDistillation("minilm"),
    "affinity": AffinityDistillation("minilm"),
}


def gradients(name: str) -> dict[str, Tensor]:
    """Of every parameter, after one step on this process' rows of the batch."""
    rows = local_rows(BATCH // world_size()) or slice(None)
    batch = {"image": normal(BATCH, WIDTH, seed=5), "text": normal(BATCH, WIDTH, seed=6)}
    batch |= {"position": torch.arange(BATCH), "teacher": TEACHER}
    student: nn.Module = Student(TERMS[name])
    named = dict(student.named_parameters())
    if world_size() > 1:
        student = DistributedDataParallel(student, find_unused_parameters=True)
    student({key: value[rows] for key, value in batch.items()}).backward()
    return {key: parameter.grad for key, parameter in named.items() if parameter.grad is not None}


def without_gradient(local: Tensor) -> Tensor:
    """The mistake: other processes' rows are constants."""
    rows: list[Tensor] = [torch.empty_like(local) for _ in range(world_size())]
    torch.distributed.all_gather(rows, local.detach())
    everyone = torch.cat(rows)
    everyone[local_rows(len(local))] = local
    return everyone


def wrong_gradients() -> dict[str, Tensor]:
    with patch("protoclip.terms.distillation.all_gather", without_gradient):
        return gradients("affinity")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert {name for name, value in expected.items() if bool((value != 0).any())} <= found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.parametrize("name", TERMS)
def test_two_processes_have_the_gradients_of_one(pool: Pool, name: str) -> None:
    expected = gradients(name)
    trained = "log_scale" if name == "affinity" else "heads.text.linear.weight"
    assert bool((expected[trained] != 0).any())
    for found in pool(gradients, name):
        assert_same(found, expected)


def test_a_gather_without_gradient_is_found(pool: Pool) -> None:
    found, _ = pool(wrong_gradients)
    with pytest.raises(AssertionError):
        assert_same(found, gradients("affinity"))


# From yaml -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["clip", "protoclip"])
@pytest.mark.parametrize(
    ("form", "term", "parameters"),
    [
        (
            "feature",
            FeatureDistillation,
            {"heads.distillation.image.linear.weight", "heads.distillation.text.linear.weight"},
        ),
        ("affinity", AffinityDistillation, {"temperatures.distillation.log_scale"}),
    ],
)
def test_a_yaml_adds_the_term_and_what_it_needs(
    tmp_path: Path, method: str, form: str, term: type[Term], parameters: set[str]
) -> None:
    words = [f"method={method}", f"runs={tmp_path}", *TINY, "+teachers.other.dims=7"]
    with initialize_config_module("conf", version_base="1.3"):
        without = build_module(compose("config", overrides=words))
        distilled = build_module(
            compose(
                "config",
                overrides=[*words, f"distillation={form}", "distillation.teacher=other", "distillation.weight=0.5"],
            )
        )
    found = distilled.terms["distillation"]
    assert isinstance(found, term)
    assert (found.teachers, found.weight) == (("other",), 0.5)
    names, expected = ({name for name, _ in module.named_parameters()} for module in (distilled, without))
    assert names - expected == parameters
    assert expected < names
    if form == "feature":
        assert distilled.get_parameter("heads.distillation.text.linear.weight").shape == (7, 16)
