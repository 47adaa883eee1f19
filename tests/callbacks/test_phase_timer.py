from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from callbacks.phase_timer import PhaseTimer, relative_epoch, total_seconds
from callbacks.prototype_refresh import PrototypeRefresh
from datamodules.scenes import ScenePairs
from protoclip import clock
from protoclip.clock import PhaseClock
from protoclip.prototypes import Clusters, KMeans, StudentClusters
from tests.tiny import Built, build, tiny_config

EPISODES = [
    {"training": 8.0, "validation": 100.0},
    {"training": 12.0, "extraction": 5.0, "clustering": 1.5, "back_translation": 0.5},
]


def test_relative_epoch_by_hand() -> None:
    assert total_seconds(EPISODES) == {
        "training": 20.0, "extraction": 5.0, "recording": 0.0, "clustering": 1.5, "back_translation": 0.5,
    }  # fmt: skip
    assert relative_epoch(EPISODES) == pytest.approx(27 / 20)
    assert relative_epoch(EPISODES[:1]) == 1
    paper = {"training": 100.0, "extraction": 31.0, "clustering": 2.3, "back_translation": 1.5}
    assert relative_epoch([paper]) == pytest.approx(1.348)


@dataclass
class Watch:
    """A clock that only moves when it is told to."""

    now: float = 0.0

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: watch.now))
    return watch


def test_nested_phases_are_exclusive(watch: Watch) -> None:
    phases = PhaseClock()
    watch.tick(64)  # before any phase
    phases.begin("training")
    watch.tick(1)
    with phases.phase("validation"):
        watch.tick(2)
        with phases.phase("extraction"):
            watch.tick(4)
        watch.tick(8)
    watch.tick(16)
    phases.end()
    watch.tick(32)
    assert phases.pop_seconds() == {"training": 17, "validation": 10, "extraction": 4}
    assert phases.pop_seconds() == {}


class SlowKMeans(KMeans):
    """Every clustering takes a known time."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(iterations=2)
        self.watch = watch

    def __call__(self, features: Tensor, num_clusters: int, *, seed: int = 0) -> Clusters:
        self.watch.tick(0.25)
        return super().__call__(features, num_clusters, seed=seed)


class Ticking(Callback):
    """Every part of an episode takes a known time."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.metrics: list[dict[str, float]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def forward(module: torch.nn.Module, _: object) -> None:
            if not trainer.validating:
                self.watch.tick(1.0 if module.training else 0.5)

        pl_module.get_submodule("towers.image").register_forward_pre_hook(forward)

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self.watch.tick(10)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.watch.tick(100)  # belongs to no phase
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def timed(config_of: Callable[[], Built], watch: Watch) -> tuple[Built, PhaseTimer, Ticking]:
    built = config_of()
    refresh = next(callback for callback in built.callbacks if isinstance(callback, PrototypeRefresh))
    grouping = refresh.groupings["prototype"]
    assert isinstance(grouping, StudentClusters)
    grouping.cluster = SlowKMeans(watch)
    built.datamodule.validation = {"scenes": ScenePairs("val", 4, image_size=32)}
    timer = next(callback for callback in built.callbacks if isinstance(callback, PhaseTimer))
    return built, timer, Ticking(watch)


@pytest.mark.parametrize("refresh_last", [False, True])
def test_the_phases_of_a_fit(tmp_path: Path, watch: Watch, refresh_last: bool) -> None:
    words = ("run.episodes=3", "prototype.warmup_episodes=1", "evaluation.every=2")
    built, timer, ticking = timed(lambda: build(tiny_config(tmp_path, "protoclip", *words)), watch)
    if refresh_last:  # inside of training, as it were
        built.callbacks.append(built.callbacks.pop(0))
        assert isinstance(built.callbacks[-1], PrototypeRefresh)
    built.fit(ticking)
    refresh = {"extraction": 0.5, "clustering": 0.5, "back_translation": 0.0}
    warm_up, validated, last = timer.episodes
    assert warm_up == {"training": 4}
    assert validated == {"training": 4, "validation": 10, **refresh}
    assert last == {"training": 4, **refresh}
    assert relative_epoch(timer.episodes) == pytest.approx(14 / 12)
    assert [metrics["relative_epoch"] for metrics in ticking.metrics] == [1, 1.25, 1.25]
    assert ticking.metrics[1]["seconds/validation"] == 10
    assert ticking.metrics[2]["seconds/extraction"] == 0.5


def test_seconds_survive_a_resume(tmp_path: Path, watch: Watch) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    def fresh() -> Built:
        return build(tiny_config(tmp_path, "protoclip", "run.episodes=4"))

    first, before, ticking = timed(fresh, watch)
    first.fit(ticking, Stop())
    assert len(before.episodes) == 2
    last = first.checkpoints / "last.ckpt"
    watch.now = 0.0
    second, after, ticking = timed(fresh, watch)
    second.fit(ticking, resume=last)
    assert after.episodes[:2] == before.episodes
    assert after.episodes[2:] == [before.episodes[1]] * 2
    assert total_seconds(after.episodes)["training"] == 16
