"""A loss that is not finite stops the run, and what it leaves is looked at and not gone on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from protoclip.checkpoints import read_checkpoint
from protoclip.divergence import NonFiniteError
from protoclip.runs import Run
from tests.tiny import Batches, Built, build, tiny_config

WORDS = ("run.episodes=3", "prototype.warmup_episodes=1")


class Poison(Callback):
    """Makes one picture of a batch infinite, or breaks the projection of texts before a refresh."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        if self.place == "step" and trainer.global_step == 6:
            self.batch = batch
            self.weights = {name: value.clone() for name, value in pl_module.named_parameters()}
            batch["image"][2] = float("inf")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.place == "refresh" and trainer.current_epoch == 1:
            pl_module.get_submodule("heads.prototype.text").register_forward_hook(self.spoil)

    @staticmethod
    def spoil(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output.index_fill(0, torch.tensor([3, 5]), float("nan"))


def diverge(runs: Path, place: str) -> tuple[Built, Poison, NonFiniteError]:
    built, poison = build(tiny_config(runs, "protoclip", *WORDS)), Poison(place)
    with pytest.raises(NonFiniteError) as raised:
        built.fit(poison)
    return built, poison, raised.value


def test_a_step(tmp_path: Path) -> None:
    built, poison, error = diverge(tmp_path, "step")
    path = built.checkpoints / "diagnostic.ckpt"
    told = str(error)
    assert "\n" not in told
    assert told.startswith("the loss is not finite at step 6 of episode 1 (image_text nan; prototype nan; not finite: ")
    assert "image/image/features" in told
    assert "text/text" not in told
    assert f"; state in {path}): lower optimizer.optimizer.lr" in told
    saved = read_checkpoint(path)
    assert saved["diagnostic"]["indices"] == poison.batch["index"].tolist()
    assert saved["diagnostic"]["positions"] == poison.batch["position"].tolist()
    assert saved["diagnostic"]["step"] == saved["global_step"] == 6
    assert set(saved["diagnostic"]["terms"]) == {"image_text", "prototype"}
    assert all(torch.equal(value, saved["state_dict"][name]) for name, value in poison.weights.items())


def test_a_refresh(tmp_path: Path) -> None:
    built, _, error = diverge(tmp_path, "refresh")
    assert "the extracted features are not finite at step 8 of episode 2 (not finite: text/text/prototype;" in str(
        error
    )
    saved = read_checkpoint(built.checkpoints / "diagnostic.ckpt")["diagnostic"]
    assert saved["positions"] == [3, 5]
    assert saved["indices"] == built.datamodule.plan.indices(2)[[3, 5]].tolist()


def test_nothing_goes_on_from_there(tmp_path: Path) -> None:
    built, *_ = diverge(tmp_path, "step")
    diagnostic, last = built.checkpoints / "diagnostic.ckpt", built.checkpoints / "last.ckpt"
    assert Run(built.checkpoints.parent, "hash").last == last
    assert "diagnostic" not in read_checkpoint(last)
    with pytest.raises(ValueError, match=r"diagnostic.ckpt is the diagnostic checkpoint of a run .* from last.ckpt$"):
        build(tiny_config(tmp_path, "protoclip", *WORDS)).fit(resume=diagnostic)
    batches = Batches()
    build(tiny_config(tmp_path, "protoclip", *WORDS)).fit(batches, resume=last)
    assert len(batches.batches) == 8
