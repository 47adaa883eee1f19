"""A run on features recorded in training that is killed anywhere and goes on equals the uninterrupted one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback

from tests.test_resume import EPISODES, assert_equal, logging, metrics, state
from tests.tiny import build, tiny_config

RECORDED = (
    *("prototype.features=recorded", "prototype.fresh_share=0.1"),
    *("prototype.images_per_prototype=4", "batch_size=16", f"run.episodes={EPISODES}"),
)


class Killed(BaseException):
    """As sudden as SIGKILL: nothing is saved."""


class Kill(Callback):
    """Ends a run in an episode: before its refresh writes anything, between its steps, or before its checkpoint."""

    def __init__(self, episode: int, moment: str) -> None:
        self.episode = episode
        self.moment = moment

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.current_epoch, self.moment) == (self.episode, "before the record is written"):
            raise Killed

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if (trainer.current_epoch, self.moment) == (self.episode, "in training"):
            raise Killed

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.current_epoch, self.moment) == (self.episode, "before the checkpoint"):
            raise Killed


def kill(config: DictConfig, episode: int, moment: str) -> Path:
    """Begin a run; returns its directory."""
    built = build(config)
    checkpoints = len(built.trainer.checkpoint_callbacks)  # they come last
    place = len(built.callbacks) - checkpoints if moment == "before the checkpoint" else 0
    built.callbacks.insert(place, Kill(episode, moment))
    with pytest.raises(Killed):
        built.fit()
    return built.checkpoints.parent


def record(directory: Path) -> dict[str, np.ndarray]:
    """The files of a run."""
    return {name: np.load(directory / "recorded" / f"{name}.npy") for name in ("features", "visited")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of an uninterrupted run."""
    built = build(tiny_config(tmp_path_factory.mktemp("whole"), "protoclip", *logging(*RECORDED))).fit()
    assert {-1, 0, 1, 2} <= set(record(built.checkpoints.parent)["visited"].tolist())
    return built.checkpoints.parent


@pytest.mark.parametrize(
    ("episode", "moment"),
    [
        (0, "in training"),
        *[(episode, "before the record is written") for episode in range(2, EPISODES)],
        (EPISODES - 1, "in training"),
        (EPISODES - 1, "before the checkpoint"),
    ],
)
def test_recorded_features_go_on(tmp_path: Path, whole: Path, episode: int, moment: str) -> None:
    config = tiny_config(tmp_path, "protoclip", *logging(*RECORDED))
    directory = kill(config, episode, moment)
    last = directory / "checkpoints" / "last.ckpt"
    build(config).fit(resume=last if episode else None)
    assert_equal(state(last), state(whole / "checkpoints" / "last.ckpt"))
    assert metrics(last) == metrics(whole / "checkpoints" / "last.ckpt")
    for name, expected in record(whole).items():
        assert np.array_equal(record(directory)[name], expected), name


def test_a_record_that_is_ahead_of_the_checkpoint(tmp_path: Path) -> None:
    """What was recorded later is not known to the checkpoint, and what it covers is lost: those pairs are not seen."""
    words = [*RECORDED, "prototype.fresh_share=0"]
    built = build(tiny_config(tmp_path, "protoclip", *words))
    directory = kill(tiny_config(tmp_path, "protoclip", *words), 3, "in training")
    pairs = [set(built.datamodule.plan.indices(episode).tolist()) for episode in range(3)]
    assert {pair for pair, visit in enumerate(record(directory)["visited"]) if visit == 2} == pairs[2]

    class Look(Callback):
        def on_train_batch_start(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, step: int
        ) -> None:
            if (trainer.current_epoch, step) == (2, 0):
                self.visited = record(directory)["visited"].tolist()
                self.labels = pl_module.get_submodule("banks.prototype.image").get_buffer("labels").tolist()

    look = Look()
    built.fit(look, resume=directory / "checkpoints" / "previous.ckpt")
    assert built.trainer.current_epoch == EPISODES
    for pair, visit in enumerate(look.visited):
        assert visit == (1 if pair in pairs[1] else 0 if pair in pairs[0] - pairs[2] else -1)
    drawn = built.datamodule.plan.indices(2).tolist()
    assert [label >= 0 for label in look.labels] == [pair in pairs[1] for pair in drawn]
