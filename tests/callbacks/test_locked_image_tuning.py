"""From its start on the image tower stands still, and nothing else does."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, equal

from callbacks.locked_image_tuning import LockedImageTuning
from callbacks.prototype_refresh import PrototypeRefresh
from datamodules.scenes import ScenePairs
from protoclip.cli import train
from protoclip.cli.build import build_module
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import StudentClusters
from tests.conftest import TINY, TINY_PROTOTYPES, Compose
from tests.tiny import Built, build, locked, tiny_config

EPISODES, STEPS, LOCKED_FROM = 4, 4, 2


class Watch(Callback):
    """What every step and every episode left behind."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.rates: list[dict[str, float]] = []
        self.modes: list[tuple[set[bool], bool]] = []
        """Training mode of the image tower's modules, and of the text tower."""
        self.gradients: list[set[bool]] = []
        """Whether the parameters of the image tower have one."""
        self.prototypes: list[bool] = []
        """Whether prototypes were trained on."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.train()  # as a callback does that has extracted features

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, ImageTextPretraining)
        tower = pl_module.towers.image
        self.rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        self.modes.append(({module.training for module in tower.modules()}, pl_module.towers.text.training))
        self.gradients.append({parameter.grad is not None for parameter in tower.parameters()})
        if "prototype" in pl_module.temperatures:
            self.prototypes.append(bool(pl_module.get_parameter("temperatures.prototype.log_scale").grad))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def watched(parts: Built) -> Watch:
    watch = Watch()
    parts.fit(watch)
    return watch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Watch, int]:
    """A run of ProtoCLIP that validates after every episode; how often it clustered."""
    parts = build(tiny_config(tmp_path_factory.mktemp("runs"), "protoclip", locked(0.5), "trainer.log_every_n_steps=1"))
    parts.datamodule.validation = {"pairs": ScenePairs("val", 12, image_size=32)}
    refresh = next(callback for callback in parts.callbacks if isinstance(callback, PrototypeRefresh))
    grouping = refresh.groupings["prototype"]
    assert isinstance(grouping, StudentClusters)
    cluster = Mock(wraps=grouping.cluster)
    grouping.cluster = cluster
    watch = watched(parts)
    return parts, watch, cluster.call_count


def test_the_image_tower_stands_still_and_the_rest_does_not(run: tuple[Built, Watch, int]) -> None:
    _, watch, _ = run
    before, start, first, second = watch.states
    image = {name for name in start if name.startswith("towers.image.")}
    assert any(name.endswith("running_var") for name in image)
    assert all(equal(start[name], state[name]) for name in image for state in (first, second))
    assert not any(equal(before[name], start[name]) for name in image if name.endswith(("running_var", "weight")))
    others = {name for name in start if name.startswith(("towers.text.", "temperatures.clip.", "heads."))}
    assert not {name for name in others if equal(first[name], second[name])}
    assert watch.modes == [({True}, True)] * STEPS * LOCKED_FROM + [({False}, True)] * STEPS * LOCKED_FROM
    assert watch.gradients == [{True}] * STEPS * LOCKED_FROM + [{False}] * STEPS * LOCKED_FROM


def test_infonce_alone_is_left(run: tuple[Built, Watch, int]) -> None:
    parts, watch, clusterings = run
    weights = [parts.module.active_weights(episode) for episode in range(EPISODES)]
    assert weights == [{"image_text": 1.0, "prototype": float(episode == 1)} for episode in range(EPISODES)]
    assert watch.prototypes == [False] * STEPS + [True] * STEPS + [False] * 2 * STEPS
    assert "validation/loss" in parts.trainer.callback_metrics
    assert clusterings == 2  # of images and of texts, once: the first episode is InfoNCE alone too
    banks = [{name: value for name, value in state.items() if name.startswith("banks.")} for state in watch.states]
    assert all(equal(value, banks[3][name]) for name, value in banks[1].items())


def test_its_learning_rate_has_fallen_to_zero(run: tuple[Built, Watch, int]) -> None:
    _, watch, _ = run
    total, warmup, stop = 16, 2, 8

    def factor(step: int, end: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (end - warmup))) if step < end else 0.0

    for group in ("decay", "no_decay"):
        image, rest = ([rates[f"{tower}/{group}"] for rates in watch.rates] for tower in ("image_tower", "rest"))
        assert image == pytest.approx([0.002 * factor(step, stop) for step in range(total)])
        assert rest == pytest.approx([0.002 * factor(step, total) for step in range(total)])
        assert image[stop:] == [0.0] * (total - stop)
        assert min(image[:stop]) > 0


def test_leaves_the_module_trainable(run: tuple[Built, Watch, int]) -> None:
    parts, _, _ = run
    assert all(parameter.requires_grad for parameter in parts.module.parameters())


def test_steps_of_several_batches(tmp_path: Path) -> None:
    """Four batches are two optimizer steps where three make one."""
    watch = watched(build(tiny_config(tmp_path, "clip", locked(0.5), "+trainer.accumulate_grad_batches=3")))
    assert [rates["image_tower/decay"] > 0 for rates in watch.rates] == [True] * 4 + [False] * 4
    assert watch.gradients == [{True}] * 4 + [{False}] * 4


def test_a_parameter_that_was_frozen_stays_frozen(tmp_path: Path) -> None:
    parts = build(tiny_config(tmp_path, "clip", locked(0.5)))
    name, frozen = next(parts.module.towers.image.named_parameters())
    frozen.requires_grad_(False)
    parts.fit()
    assert {n for n, p in parts.module.towers.image.named_parameters() if not p.requires_grad} == {name}


def module_with(compose_tiny: Compose, start: float, *words: str) -> ImageTextPretraining:
    """A module that was told of the callback."""
    module = build_module(compose_tiny("protoclip", *words))
    LockedImageTuning(start=start).setup(Mock(max_epochs=EPISODES), module, "fit")
    return module


def test_is_off_at_the_end_of_the_run(compose_tiny: Compose, recwarn: pytest.WarningsRecorder) -> None:
    module = module_with(compose_tiny, 1.0)
    assert module.image_locked_from is None
    assert list(module.phases) == ["prototype_warmup"]
    assert not recwarn.list


def test_tells_that_it_locks_nothing(compose_tiny: Compose) -> None:
    with pytest.warns(UserWarning, match=r"start=0\.9 locks nothing in a run of 4 episodes"):
        assert module_with(compose_tiny, 0.9).image_locked_from is None


@pytest.mark.parametrize(
    ("start", "words", "message"),
    [
        (0.1, (), "locks the image tower after 0 of 4 episodes, before it is trained: raise it"),
        (0.25, (), "after 1 of 4 episodes, before term prototype is trained: raise it, or shorten the term's warm-up"),
        (0.5, ("optimizer.schedule.warmup=0.6",), r"before the learning rate has warmed up: raise it, or lower optim"),
        (0.5, ("terms.image_text.weight=0.0", "prototype.warmup_episodes=0"), "no term is trained while .*start=1$"),
    ],
)
def test_refuses_a_start(compose_tiny: Compose, start: float, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        module_with(compose_tiny, start, *words)
    assert "\n" not in str(raised.value)


def test_takes_the_episodes_that_are_left(compose_tiny: Compose) -> None:
    assert module_with(compose_tiny, 0.25, "prototype.warmup_episodes=0").image_locked_from == 1
    assert module_with(compose_tiny, 0.5, "optimizer.schedule.warmup=0.49").image_locked_from == LOCKED_FROM


def test_a_mistake_is_told_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    assert train(["method=protoclip", f"runs={runs}", *TINY, *TINY_PROTOTYPES, locked(0.0)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not runs.exists()
