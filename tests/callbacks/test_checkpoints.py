"""The two checkpoints of a run (conf/callbacks/default.yaml)."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from callbacks.evaluation import Evaluation
from datamodules.scenes import ScenePairs
from protoclip.evaluation import Retrieval, Sets
from tests.tiny import Built, build, tiny_config

MONITOR = "validation/retrieval/mean_recall"


class Scripted(Retrieval):
    """Real retrieval, but for the figure that decides which checkpoint is best."""

    def __init__(self, values: list[float]) -> None:
        super().__init__("pairs")
        self.values = values

    def __call__(self, sets: Sets) -> dict[str, float]:
        return {**super().__call__(sets), "mean_recall": self.values.pop(0)}


class Weights(Callback):
    """A parameter at the end of each episode."""

    def __init__(self) -> None:
        self.scales: list[Tensor] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.scales.append(pl_module.state_dict()["temperatures.clip.log_scale"].clone())


@dataclass(frozen=True)
class Run:
    built: Built
    weights: Weights
    best: int


def run(runs: Path, method: str, *overrides: str, values: list[float], best: int) -> Run:
    built, weights = build(tiny_config(runs, method, f"evaluation.monitor={MONITOR}", *overrides)), Weights()
    built.datamodule.validation = {"pairs": ScenePairs("val", 7, image_size=32)}
    evaluation = next(callback for callback in built.callbacks if isinstance(callback, Evaluation))
    evaluation.tasks["validation"] = {"retrieval": Scripted(values)}
    return Run(built.fit(weights), weights, best)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Validation after every episode, and after every other one; the last one is not the best in either."""
    protoclip = ("run.episodes=3", "prototype.warmup_episodes=1")
    clip = ("run.episodes=5", "evaluation.every=2")
    return [
        run(tmp_path_factory.mktemp("protoclip"), "protoclip", *protoclip, values=[20.0, 50.0, 30.0], best=1),
        run(tmp_path_factory.mktemp("clip"), "clip", *clip, values=[50.0, 20.0], best=1),
    ]


def test_last_is_of_the_last_episode_and_best_of_the_best(runs: list[Run]) -> None:
    for run in runs:
        last = len(run.weights.scales) - 1
        assert not torch.equal(run.weights.scales[run.best], run.weights.scales[last])
        for name, episode in (("best", run.best), ("last", last)):
            checkpoint = torch.load(run.built.checkpoints / f"{name}.ckpt", weights_only=True)
            assert checkpoint["epoch"] == episode
            assert torch.equal(checkpoint["state_dict"]["temperatures.clip.log_scale"], run.weights.scales[episode])


def test_every_checkpoint_loads_without_pickle(runs: list[Run]) -> None:
    for run in runs:
        files = sorted(run.built.checkpoints.iterdir())
        assert [file.name for file in files] == ["best.ckpt", "last.ckpt", "previous.ckpt"]
        for file in files:
            checkpoint = torch.load(file, weights_only=True)
            assert len(checkpoint["callbacks"]["PhaseTimer"]["episodes"]) == checkpoint["epoch"] + 1
            faults: dict[str, dict[str, int]] = {"pairs": {}, "samples": {}}
            assert checkpoint["ImageTextDataModule"] == {"next_episode": checkpoint["epoch"] + 1, "faults": faults}


def test_the_prototypes_are_in_the_checkpoint(runs: list[Run]) -> None:
    for name, block in (("best", 1), ("last", 2)):
        state = torch.load(runs[0].built.checkpoints / f"{name}.ckpt", weights_only=True)["state_dict"]
        assert int(state["banks.prototype.block"]) == block
        assert bool((state["banks.prototype.image.labels"] >= 0).all())
