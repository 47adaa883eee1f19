"""The module: what a step computes, trains, clamps and refuses."""

import copy
import csv
import math
import random
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from protoclip.cli.build import build_module
from protoclip.heads import ProjectionHead
from protoclip.losses import clip_loss, prototype_loss
from protoclip.module import ImageTextPretraining
from protoclip.phases import Phase
from protoclip.prototypes import PrototypeBank, assign_prototypes, kmeans
from protoclip.schedule import WarmupCosine
from protoclip.temperature import Temperature
from protoclip.terms import FeatureKey, ImageText, Prototype
from tests.conftest import Compose

BATCH, SIZE = 8, 32
Batch = dict[str, Tensor]


def batch_of(episode: int = 0, seed: int = 0, count: int = BATCH) -> Batch:
    """Noise pictures and random words, at the first positions of an episode."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 400, (count, 16), generator=generator)
    ids[:, 0], ids[:, 8], ids[:, 9:] = 49_406, 49_407, 0
    numbers = {"episode": episode, "block": episode}
    return {
        "image": torch.randn(count, 3, 32, 32, generator=generator),
        "text": ids,
        "position": torch.arange(count),
        "index": torch.arange(count),
        **{name: torch.full((count,), number) for name, number in numbers.items()},
    }


class Steps(Callback):
    """What every step left behind."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.figures: list[dict[str, float]] = []
        self.gradients: list[dict[str, Tensor | None]] = []

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in named})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


class Plan(Sampler[tuple[int, int]]):
    """(episode, step) of every batch; Lightning says when an episode begins."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.episode = 0

    def set_epoch(self, epoch: int) -> None:
        self.episode = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.episode, step) for step in range(self.steps))


class SameBatch(Dataset[Batch]):
    """One batch, with the number of the episode."""

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return batch_of(key[0])


def episodes(steps: int = 1) -> Any:
    """A loader of the same batch so many times an episode."""
    return DataLoader(SameBatch(), sampler=Plan(steps), batch_size=None)


def trainer_of(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "barebones": False}
    return pl.Trainer(
        accelerator="cpu", enable_model_summary=False, **(quiet | {"max_epochs": 1, "log_every_n_steps": 1} | options)
    )


def fit(module: ImageTextPretraining, loader: Any, **options: Any) -> Steps:
    steps = Steps()
    trainer_of(callbacks=[steps], **options).fit(module, loader)
    return steps


def fill(module: ImageTextPretraining, block: int = 0) -> PrototypeBank:
    """Prototypes of the module's bank, from random features."""
    bank = module.banks["prototype"]
    assert isinstance(bank, PrototypeBank)
    generator = torch.Generator().manual_seed(5)
    image, text = (nn.functional.normalize(torch.randn(SIZE, 8, generator=generator), dim=1) for _ in range(2))
    found = assign_prototypes(image, text, bank.num_prototypes, cluster=partial(kmeans, backend="torch"))
    bank.write(block, found.image, found.text)
    return bank


@pytest.fixture
def clip(compose_tiny: Compose) -> ImageTextPretraining:
    return build_module(compose_tiny("clip"))


@pytest.fixture
def protoclip(compose_tiny: Compose) -> ImageTextPretraining:
    """ProtoCLIP without warm-up, its bank filled for episode 0."""
    module = build_module(compose_tiny("protoclip", "prototype.warmup_episodes=0"))
    fill(module)
    return module


def head(module: ImageTextPretraining, tower: str) -> ProjectionHead:
    found = module.get_submodule(f"heads.prototype.{tower}")
    assert isinstance(found, ProjectionHead)
    return found


# What is built -------------------------------------------------------------------------------------------------------
def test_heads_of_both_towers_start_equal(protoclip: ImageTextPretraining) -> None:
    image, text = head(protoclip, "image").state_dict(), head(protoclip, "text").state_dict()
    assert image.keys() == text.keys()
    for name, value in image.items():
        assert torch.equal(value, text[name])
        assert value.data_ptr() != text[name].data_ptr()


def test_heads_become_different(protoclip: ImageTextPretraining) -> None:
    fit(protoclip, episodes(3))
    first, second = (next(head(protoclip, tower).parameters()) for tower in ("image", "text"))
    assert not torch.equal(first, second)


def test_heads_of_other_widths_are_built_for_each(clip: ImageTextPretraining) -> None:
    clip.towers.text.embed_dim = 20
    module = rebuild(clip, terms={"prototype": Prototype()}, banks=BANKS, heads=HEADS, temperatures=TEMPERATURES)
    widths = {tower: head(module, tower).layers[0].in_features for tower in ("image", "text")}
    assert widths == {"image": 16, "text": 20}


def test_required_views(clip: ImageTextPretraining, protoclip: ImageTextPretraining) -> None:
    assert clip.required_views == protoclip.required_views == {"image": "image", "text": "text"}
    term = ImageText([["image", "text"], ["crop", "text"]])
    wider = rebuild(clip, terms={"image_text": term})
    assert wider.required_views == {"image": "image", "text": "text", "crop": "image"}


BANKS = {"prototype": PrototypeBank(SIZE, 8, num_prototypes=3)}
HEADS = {"prototype": partial(ProjectionHead, hidden_dim=16, out_dim=8)}
TEMPERATURES = {"clip": Temperature(), "prototype": Temperature()}


def rebuild(module: ImageTextPretraining, **options: Any) -> ImageTextPretraining:
    """A module around the same towers, of other parts."""
    defaults: dict[str, Any] = {
        "terms": {"image_text": ImageText([["image", "text"]])},
        "temperatures": {"clip": Temperature()},
        "optimizer": partial(torch.optim.AdamW, lr=0.002),
        "schedule": WarmupCosine(warmup=0.0),
    }
    return ImageTextPretraining(module.towers, **copy.deepcopy(defaults | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"banks": BANKS, "temperatures": TEMPERATURES}, r"term prototype needs heads\.prototype"),
        ({"heads": HEADS, "temperatures": TEMPERATURES}, r"term prototype needs banks\.prototype"),
        ({"heads": HEADS, "banks": BANKS}, r"term prototype needs temperatures\.prototype"),
    ],
)
def test_refuses_terms_whose_parts_are_missing(
    clip: ImageTextPretraining, options: dict[str, Any], message: str
) -> None:
    terms = {"image_text": ImageText([["image", "text"]]), "prototype": Prototype()}
    with pytest.raises(ValueError, match=message) as caught:
        rebuild(clip, terms=terms, **options)
    assert "\n" not in str(caught.value)


def weighted(module: ImageTextPretraining, weight: float, **options: Any) -> ImageTextPretraining:
    """CLIP and a second term of that weight, with all parts that it needs."""
    terms = {"image_text": ImageText([["image", "text"]]), "prototype": Prototype(weight=weight)}
    return rebuild(module, terms=terms, heads=HEADS, banks=BANKS, temperatures=TEMPERATURES, **options)


def test_refuses_a_sigmoid_without_a_bias_and_a_bias_without_a_sigmoid(clip: ImageTextPretraining) -> None:
    terms = {"image_text": ImageText([["image", "text"]], loss="sigmoid")}
    with pytest.raises(ValueError, match=r"term image_text needs a bias: set temperatures\.clip\.bias"):
        rebuild(clip, terms=terms)
    with pytest.raises(ValueError, match=r"no term uses .*: set temperatures\.clip\.bias=null"):
        rebuild(clip, temperatures={"clip": Temperature(bias=-10.0)})
    assert rebuild(clip, terms=terms, temperatures={"clip": Temperature(bias=-10.0)})


def test_refuses_a_head_that_hides_an_output_of_the_towers(clip: ImageTextPretraining) -> None:
    with pytest.raises(ValueError, match=r"heads\.tokens would hide .* another name than tokens"):
        rebuild(clip, heads={"tokens": ProjectionHead})


def test_a_term_without_weight_is_left_out_with_all_that_it_alone_needs(clip: ImageTextPretraining) -> None:
    for phases in ({}, {"warmup": Phase(1, {"prototype": 0.0})}):
        module = weighted(clip, 0.0, phases=phases)
        assert set(module.state_dict()) == set(clip.state_dict())
        assert [name for name, _ in module.named_parameters()] == [name for name, _ in clip.named_parameters()]
        assert module.required == clip.required
        assert module.active_weights(0) == module.active_weights(1) == {"image_text": 1.0}
    steps = fit(module, episodes())
    assert all(gradient is not None for gradient in steps.gradients[0].values())
    assert not any("prototype" in name for name in steps.figures[0])


def test_a_term_with_a_weight_in_a_phase_alone_is_kept(clip: ImageTextPretraining) -> None:
    module = weighted(clip, 0.0, phases={"first": Phase(2, {"prototype": 0.5})})
    assert [module.active_weights(episode)["prototype"] for episode in range(3)] == [0.5, 0.5, 0.0]
    assert set(module.state_dict()) == set(weighted(clip, 1.0).state_dict()) > set(clip.state_dict())


def test_what_two_terms_share_stays_with_one(clip: ImageTextPretraining) -> None:
    terms = {"image_text": ImageText([["image", "text"]]), "other": ImageText([["image", "text"]], weight=0.0)}
    module = rebuild(clip, terms=terms)
    assert (list(module.terms), list(module.temperatures)) == (["image_text"], ["clip"])


def test_a_term_without_weight_needs_nothing(clip: ImageTextPretraining) -> None:
    terms = {"image_text": ImageText([["image", "text"]]), "prototype": Prototype(weight=0.0)}
    assert list(rebuild(clip, terms=terms).terms) == ["image_text"]


def test_refuses_a_method_without_a_weight(clip: ImageTextPretraining) -> None:
    with pytest.raises(ValueError, match=r"every term has weight 0: give one of terms\.\*\.weight a value$"):
        rebuild(clip, terms={"image_text": ImageText([["image", "text"]], weight=0.0)})


def test_refuses_phases_without_a_term(clip: ImageTextPretraining) -> None:
    with pytest.raises(ValueError, match=r"phases\.warmup"):
        rebuild(clip, phases={"warmup": Phase(1, {"image_text": 0.0})})


def test_state_holds_bank_and_temperatures(protoclip: ImageTextPretraining) -> None:
    names = set(protoclip.state_dict())
    assert {"banks.prototype.block", "banks.prototype.image.labels", "banks.prototype.text.centroids"} <= names
    assert {"temperatures.clip.log_scale", "temperatures.prototype.log_scale"} <= names
    assert not [name for name, parameter in protoclip.named_parameters() if name.startswith("banks.")]


# A step --------------------------------------------------------------------------------------------------------------
def forward(module: ImageTextPretraining, batch: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Features in train mode by (tower, output), of a copy, so that statistics stay."""
    twin = copy.deepcopy(module).train()
    return {(key.tower, key.output): value.detach() for key, value in twin(batch).items()}


def losses_by_hand(module: ImageTextPretraining, batch: Batch) -> tuple[float, float]:
    found = forward(module, batch)
    contrast = clip_loss(found["image", "features"], found["text", "features"], torch.tensor(1 / 0.07))
    bank = module.banks["prototype"]
    assert isinstance(bank, PrototypeBank)
    sides = []
    for tower in ("image", "text"):
        side = bank.side(tower)
        sides.append(
            prototype_loss(
                found[tower, "prototype"],
                side.prototypes,
                torch.tensor(1 / 0.07),
                side.labels[batch["position"]],
                teacher_centroids=side.centroids,
                target_temperature=0.01,
            ).item()
        )
    return contrast.item(), sum(sides) / 2


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])
def test_loss_is_the_weighted_sum(protoclip: ImageTextPretraining, weights: tuple[float, float]) -> None:
    contrast, prototype = losses_by_hand(protoclip, batch_of())
    for name, weight in zip(("image_text", "prototype"), weights, strict=True):
        protoclip.terms[name].weight = weight  # type: ignore[assignment]
    steps = fit(protoclip, episodes())
    assert steps.losses[0] == pytest.approx(weights[0] * contrast + weights[1] * prototype, rel=1e-5)
    assert steps.figures[0]["train/loss"] == pytest.approx(steps.losses[0], rel=1e-6)
    assert steps.figures[0]["train/prototype_loss"] == pytest.approx(prototype, rel=1e-5)
    assert ("train/image_text_loss" in steps.figures[0]) == (weights[0] > 0)
    assert steps.figures[0]["train/logit_scale/prototype"] == pytest.approx(1 / 0.07, rel=1e-5)


@pytest.mark.parametrize("method", ["clip", "protoclip"])
def test_goes_down_in_20_steps(method: str, compose_tiny: Compose) -> None:
    words = ["optimizer.schedule.warmup=0"] + ["prototype.warmup_episodes=0"] * (method == "protoclip")
    module = build_module(compose_tiny(method, *words))
    if method == "protoclip":
        fill(module)
    steps = fit(module, episodes(20))
    assert len(steps.losses) == 20
    assert sum(steps.losses[-3:]) / 3 < 0.7 * steps.losses[0]
    if method == "protoclip":
        assert steps.figures[-1]["train/prototype_loss"] < 0.8 * steps.figures[0]["train/prototype_loss"]


def test_an_inactive_term_has_zero_gradients_and_moves_statistics(compose_tiny: Compose) -> None:
    """In the InfoNCE episode all parameters have gradients (DDP needs them), and heads only see the data."""
    module = build_module(compose_tiny("protoclip"))
    fill(module)
    before = copy.deepcopy(module.state_dict())
    contrast, _ = losses_by_hand(module, batch_of())
    steps = fit(module, episodes())
    assert steps.losses[0] == pytest.approx(contrast, rel=1e-5)
    inactive = [name for name in steps.gradients[0] if name.startswith("heads.") or "temperatures.prototype" in name]
    assert len(inactive) == 13  # two linear layers and a norm each, and the scale
    for name, gradient in steps.gradients[0].items():
        assert gradient is not None, name
        assert bool(gradient.isfinite().all()), name
        if name in inactive:
            assert not bool(gradient.any()), name
            assert torch.equal(module.state_dict()[name], before[name]), name
    for tower in ("image", "text"):
        norm = head(module, tower).layers[1]
        assert norm.get_buffer("num_batches_tracked").item() == 1
        assert bool(norm.get_buffer("running_mean").any())


def test_the_phase_ends(compose_tiny: Compose) -> None:
    module = build_module(compose_tiny("protoclip"))
    fill(module, block=1)
    assert [module.active_weights(episode)["prototype"] for episode in range(3)] == [0.0, 1.0, 1.0]
    steps = fit(module, episodes(2), max_epochs=2)
    for step, gradients in enumerate(steps.gradients):
        gradient = gradients["heads.prototype.image.layers.0.weight"]
        assert gradient is not None
        assert bool(gradient.any()) == (step >= 2)


@pytest.mark.parametrize(
    ("value", "rate", "edge"), [(math.log(100), 1.0, math.log(100)), (0.0, 1.0, 0.0), (9.0, 0, 4.60517), (-2.0, 0, 0)]
)
def test_temperatures_are_clamped_after_each_step(
    protoclip: ImageTextPretraining, value: float, rate: float, edge: float
) -> None:
    """Also at learning rate 0, as after loading weights from elsewhere."""
    protoclip.optimizer_factory = partial(torch.optim.SGD, lr=rate)
    protoclip.schedule_factory = lambda total: lambda step: 1.0
    with torch.no_grad():
        for temperature in protoclip.temperatures.values():
            temperature.get_parameter("log_scale").fill_(value)
    seen: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            seen.extend(t.get_parameter("log_scale").item() for t in protoclip.temperatures.values())

    trainer_of(callbacks=[Watch()]).fit(protoclip, episodes(3))
    assert all(-1e-6 <= scale <= math.log(100) + 1e-6 for scale in seen)
    assert len(seen) == 6
    if not rate:
        assert seen == pytest.approx([edge] * 6, abs=1e-5)


def test_a_step_hands_the_features_that_are_asked_for_to_callbacks(protoclip: ImageTextPretraining) -> None:
    handed: list[dict[FeatureKey, Tensor]] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
            handed.append(outputs["features"])

    trainer_of(callbacks=[Watch()]).fit(protoclip, episodes())
    protoclip.returned = protoclip.required[2:] + protoclip.required[:1]
    expected = forward(protoclip, batch_of())
    trainer_of(callbacks=[Watch()]).fit(protoclip, episodes())
    first, second = handed
    assert first == {}
    assert tuple(second) == protoclip.returned
    for key, value in second.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, expected[key.tower, key.output])


def test_refuses_a_batch_of_another_episode(clip: ImageTextPretraining) -> None:
    with pytest.raises(RuntimeError, match="delivered episode 1 in episode 0"):
        fit(clip, DataLoader([batch_of(1)], batch_size=None))  # type: ignore[arg-type]


def test_refuses_prototypes_of_another_block(protoclip: ImageTextPretraining) -> None:
    fill(protoclip, block=7)
    with pytest.raises(RuntimeError, match="of block 7, the batch is of block 0"):
        fit(protoclip, episodes())


def test_every_parameter_is_trained(protoclip: ImageTextPretraining) -> None:
    steps = fit(protoclip, episodes(2))
    without = [name for name, gradient in steps.gradients[-1].items() if gradient is None or not bool(gradient.any())]
    allowed = {"bias"}  # a linear layer's before a batch norm, and those that only softmax sees
    assert [name for name in without if name.rsplit(".", 1)[-1] not in allowed] == []


def test_terms_see_full_precision(protoclip: ImageTextPretraining) -> None:
    seen: list[tuple[bool, set[torch.dtype]]] = []

    def look(_: nn.Module, inputs: tuple[Any]) -> None:
        dtypes = {value.dtype for value in inputs[0].features.values() if value.is_floating_point()}
        seen.append((torch.is_autocast_enabled("cpu"), dtypes))

    for term in protoclip.terms.values():
        term.register_forward_pre_hook(look)
    fit(protoclip, episodes(), precision="bf16-mixed")
    assert seen == [(False, {torch.float32})] * 2


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_of_a_fused_optimizer_are_clipped(clip: ImageTextPretraining, precision: str, algorithm: str) -> None:
    largest = []

    def look(optimizer: Any, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = [gradient.norm() if algorithm == "norm" else gradient.abs().max() for gradient in gradients]
        largest.append(float(torch.stack(norms).norm() if algorithm == "norm" else max(norms)))

    def fused(groups: Any, **options: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(groups, fused=True, **options)
        optimizer.register_step_post_hook(look)
        return optimizer

    clip.optimizer_factory = fused
    fit(clip, episodes(2), precision=precision, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    assert largest == pytest.approx([1e-3] * 2, rel=1e-2)


def test_learning_rate_follows_the_schedule_by_step(clip: ImageTextPretraining) -> None:
    clip.schedule_factory = WarmupCosine(warmup=0.5)
    steps = fit(clip, episodes(3), max_epochs=2)
    factor = WarmupCosine(warmup=0.5)(6)
    assert steps.rates == pytest.approx([0.002 * factor(step) for step in range(6)])


def test_optimizer_has_the_four_groups(protoclip: ImageTextPretraining) -> None:
    trainer = trainer_of()
    trainer.fit(protoclip, episodes())
    groups = {group["name"]: group["weight_decay"] for group in trainer.optimizers[0].param_groups}
    assert groups == {
        "image_tower/decay": 0.5,
        "image_tower/no_decay": 0.0,
        "rest/decay": 0.5,
        "rest/no_decay": 0.0,
    }


def test_randomness_of_a_step_comes_from_seed_and_episode(clip: ImageTextPretraining) -> None:
    draws = []
    for seed, episode in ((0, 0), (0, 0), (0, 1), (1, 0)):
        clip.seed = seed
        clip.trainer = trainer = trainer_of()
        trainer.fit_loop.epoch_progress.current.completed = episode
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        clip.on_train_epoch_start()
        draws.append((float(torch.rand(1)), random.random(), float(np.random.rand())))  # noqa: NPY002
    assert draws[0] == draws[1]
    assert [len(set(column)) for column in zip(*draws, strict=True)] == [3, 3, 3]


def test_representation_figures_come_at_the_loggers_steps(clip: ImageTextPretraining, tmp_path: Path) -> None:
    """Also where an episode is shorter than the interval: it counts the steps of the run."""
    logger = CSVLogger(tmp_path)
    fit(clip, episodes(3), max_epochs=4, log_every_n_steps=4, logger=logger)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [3, 7, 11]
    for name in ("train/modality_gap", "train/image_feature_std", "train/text_feature_std"):
        assert all(row.get(name) for row in rows), name


# Validation and test -------------------------------------------------------------------------------------------------
CAPTIONS = (2, 1, 5, 3, 2, 4)


def evaluation_batch(seed: int = 0, counts: tuple[int, ...] = CAPTIONS) -> Batch:
    numbers = torch.tensor(counts)
    pictures, captions = batch_of(seed=seed, count=len(counts)), batch_of(seed=seed + 100, count=sum(counts))
    return {
        "image": pictures["image"],
        "index": torch.arange(len(counts)),
        "text": captions["text"],
        "owner": torch.arange(len(counts)).repeat_interleave(numbers),
        "first_caption": numbers.cumsum(0) - numbers,
        "label": torch.full((len(counts),), -1),
    }


class Outputs(Callback):
    def __init__(self) -> None:
        self.outputs: list[dict[str, dict[str, Tensor]]] = []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.outputs.append(outputs)


def validate(module: ImageTextPretraining, batches: list[Batch], **options: Any) -> tuple[float, Outputs]:
    seen = Outputs()
    trainer = trainer_of(callbacks=[seen], **options)
    trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
    return float(trainer.callback_metrics["validation/loss"]), seen


@pytest.mark.parametrize("method", ["clip", "protoclip"])
def test_validation_loss_is_clips_of_the_first_captions(method: str, request: pytest.FixtureRequest) -> None:
    """Of both methods, so that they can be compared: prototypes are of training pairs."""
    module: ImageTextPretraining = request.getfixturevalue(method)
    batches = [evaluation_batch(0), evaluation_batch(1, (1, 3, 2))]
    loss, _ = validate(module, batches)
    module.eval()
    expected = []
    for batch in batches:
        starts = [batch["owner"].tolist().index(picture) for picture in range(len(batch["image"]))]
        with torch.no_grad():
            image = module.encode("image", batch["image"])["features"]
            text = module.encode("text", batch["text"][starts])["features"]
            expected.append(clip_loss(image, text, torch.tensor(1 / 0.07)).item())
    assert loss == pytest.approx((6 * expected[0] + 3 * expected[1]) / 9, rel=1e-4)


def test_validation_loss_is_in_full_precision(clip: ImageTextPretraining) -> None:
    batch = evaluation_batch()
    loss, seen = validate(clip, [batch], precision="bf16-mixed")
    image, text = (seen.outputs[0][tower]["features"] for tower in ("image", "text"))
    assert image.dtype == text.dtype == torch.float32
    expected = clip_loss(image, text[batch["first_caption"]], torch.tensor(1 / 0.07))
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_pictures_without_captions_have_no_loss(clip: ImageTextPretraining) -> None:
    batch = {name: value for name, value in evaluation_batch().items() if name in {"image", "index", "label"}}
    trainer = trainer_of()
    trainer.validate(clip, DataLoader([batch], batch_size=None), verbose=False)  # type: ignore[arg-type]
    assert "validation/loss" not in trainer.callback_metrics


def test_a_method_without_a_term_that_validates_has_no_loss(compose_tiny: Compose) -> None:
    module = build_module(compose_tiny("protoclip", "terms.image_text.weight=0.0", "prototype.warmup_episodes=0"))
    trainer, seen = trainer_of(), Outputs()
    trainer.callbacks.append(seen)  # type: ignore[attr-defined]
    trainer.validate(module, DataLoader([evaluation_batch()], batch_size=None), verbose=False)  # type: ignore[arg-type]
    assert "validation/loss" not in trainer.callback_metrics
    assert {"features", "prototype"} <= set(seen.outputs[0]["text"])


def test_outputs_of_evaluation_are_those_of_towers_and_heads(protoclip: ImageTextPretraining) -> None:
    batch = evaluation_batch()
    _, seen = validate(protoclip, [batch], precision="bf16-mixed")
    for tower, count in (("image", len(CAPTIONS)), ("text", sum(CAPTIONS))):
        outputs = seen.outputs[0][tower]
        assert {"pooled", "embedding", "features", "prototype"} <= set(outputs)
        for name, value in outputs.items():
            assert len(value) == count, name
            assert value.dtype not in {torch.bfloat16, torch.float16}, name
        torch.testing.assert_close(outputs["prototype"].norm(dim=1), torch.ones(count))


def test_pictures_are_encoded_in_parts(clip: ImageTextPretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(5, 3, clip.towers.image.image_size, clip.towers.image.image_size)
    encode, sizes = clip.encode, []

    def noted(tower: str, part: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes.append(len(part))
        return encode(tower, part)

    monkeypatch.setattr(clip, "encode", noted)
    monkeypatch.setattr("protoclip.module.PICTURES", 2)
    clip.eval()
    with torch.inference_mode():
        whole, parts = encode("image", images), clip.encode_pictures(images)
    assert sizes == [2, 2, 1]
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)
