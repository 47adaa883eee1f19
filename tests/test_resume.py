"""A run that stops after any episode and is resumed equals the uninterrupted one bit for bit (traps 1, 2, 3, 18)."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor

from protoclip.cli.build import build_datamodule, build_module, build_trainer, find_run
from protoclip.module import ImageTextPretraining
from tests.conftest import TINY_METHODS, Compose
from tests.teachers import fill_caches
from tests.tiny import locked, tiny_config

METHODS = ("clip", "protoclip")
EPISODES = 4


class Recorder(Callback):
    """Losses of every step, and the samples that they were computed on."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: list[Tensor] = []
        self.samples: list[tuple[int, ...]] = []
        self.stop_after = stop_after

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Mapping[str, Tensor], _: int
    ) -> None:
        self.losses.append(outputs["loss"].clone())
        self.samples += list(
            zip(batch["episode"].tolist(), batch["position"].tolist(), batch["index"].tolist(), strict=True)
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stop_after is not None and trainer.current_epoch + 1 == self.stop_after:
            trainer.should_stop = True


def logging(*more: str) -> list[str]:
    """Words that switch ``metrics.csv`` on, with a row at every third step and validation at every other episode."""
    logger = "{csv:{_target_:callbacks.metrics_csv.MetricsCSV,folder:'${run_dir}',exclude:[seconds/,relative_epoch]}}"
    pictures = "{pairs:{_target_:datamodules.scenes.ScenePairs,split:val,size:12,image_size:32}}"
    tasks = "{retrieval:{_target_:protoclip.evaluation.Retrieval,pictures:pairs}}"
    part = f"{{pictures:{pictures},tasks:{tasks}}}"
    evaluation = f"{{every:2,monitor:null,validation:{part},test:{part}}}"
    rate = "{_target_:pytorch_lightning.callbacks.LearningRateMonitor,logging_interval:step}"
    return [
        f"++logger={logger}",
        f"++evaluation={evaluation}",
        "++trainer.log_every_n_steps=3",
        f"+callbacks.learning_rate={rate}",
        *more,
    ]


class Keep(Checkpoint):
    """Copies the run's directory as every episode leaves it, which is what a kill in the next one would find."""

    def __init__(self, directory: Path, folder: Path) -> None:
        self.directory = directory
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        shutil.copytree(self.directory, self.folder / str(trainer.current_epoch + 1))


def run(
    config: DictConfig, *, stop_after: int | None = None, resume: Path | None = None, keep: Path | None = None
) -> tuple[Recorder, Path]:
    """Train a config, from a checkpoint if one is given; returns what was seen and the last checkpoint."""
    datamodule = build_datamodule(config)
    directory = find_run(config, datamodule)
    module = build_module(config)
    trainer = build_trainer(config, datamodule)
    recorder = Recorder(stop_after)
    trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    if keep is not None:
        trainer.callbacks.append(Keep(directory.path, keep))  # type: ignore[attr-defined]
    torch.manual_seed(0 if resume is None else 999)  # a resumed process has other generators
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    last = directory.last
    assert last is not None
    return recorder, last


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run, and copies of its directory as every episode left it."""

    config: DictConfig
    seen: Recorder
    last: Path
    state: dict[str, Any]
    kept: Path

    def resumed(self, stop: int) -> Recorder:
        """Go on from what there was after an episode; checks that all is as if there had been no end."""
        shutil.rmtree(self.last.parent.parent)
        shutil.copytree(self.kept / str(stop), self.last.parent.parent)
        second, last = run(self.config, resume=self.last)
        steps = stop * len(self.seen.losses) // self.config.run.episodes
        pairs = stop * len(self.seen.samples) // self.config.run.episodes
        assert second.samples == self.seen.samples[pairs:]
        assert torch.equal(torch.stack(second.losses), torch.stack(self.seen.losses[steps:]))
        assert last == self.last
        assert_equal(state(last), self.state)
        return second


def whole_run(config: DictConfig, folder: Path) -> Whole:
    """Train a config without an interruption."""
    seen, last = run(config, keep=folder)
    return Whole(config, seen, last, state(last), folder)


def state(checkpoint: Path) -> dict[str, Any]:
    """What must be equal: weights, buffers, optimizer and schedule."""
    loaded = torch.load(checkpoint, weights_only=True)
    return {name: loaded[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")}


def assert_equal(left: Any, right: Any, path: str = "") -> None:
    """Bit for bit, with the name of the first difference."""
    assert type(left) is type(right), path
    if isinstance(left, Tensor):
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_equal(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for place, pair in enumerate(zip(left, right, strict=True)):
            assert_equal(*pair, f"{path}/{place}")
    else:
        assert left == right, path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """The run of each method, with figures; each is made once."""

    @cache
    def made(method: str) -> Whole:
        folder = tmp_path_factory.mktemp(method)
        return whole_run(tiny_config(folder, method, *logging()), folder / "kept")

    return made


@pytest.mark.parametrize("method", TINY_METHODS)
def test_resume_after_every_episode(whole: Callable[[str], Whole], method: str) -> None:
    uninterrupted = whole(method)
    figures = metrics(uninterrupted.last)
    for stop in range(1, EPISODES) if method in METHODS else [2]:
        uninterrupted.resumed(stop)
        assert metrics(uninterrupted.last) == figures
    queues = [value for name, value in uninterrupted.state["state_dict"].items() if name.endswith(".queue")]
    assert [bool(queue.any()) for queue in queues] == [True] * (method in {"declip", "defilip"})


@pytest.mark.parametrize("method", METHODS)
def test_a_run_with_workers_that_stops_and_goes_on(
    whole: Callable[[str], Whole], compose_tiny: Compose, method: str
) -> None:
    config = compose_tiny(method, *logging("num_workers=2"))
    first, checkpoint = run(config, stop_after=2)
    second, resumed = run(config, resume=checkpoint)
    uninterrupted = whole(method)
    assert 2 * len(first.losses) == len(uninterrupted.seen.losses)
    assert first.samples + second.samples == uninterrupted.seen.samples
    assert torch.equal(torch.stack(first.losses + second.losses), torch.stack(uninterrupted.seen.losses))
    assert_equal(state(resumed), uninterrupted.state)
    assert metrics(resumed) == metrics(uninterrupted.last)


def test_resume_before_at_and_after_the_lock_of_the_image_tower(compose_tiny: Compose, tmp_path: Path) -> None:
    uninterrupted = whole_run(compose_tiny("protoclip", *logging(locked(0.5))), tmp_path / "kept")
    figures = metrics(uninterrupted.last)
    for stop in range(1, EPISODES):
        uninterrupted.resumed(stop)
        assert metrics(uninterrupted.last) == figures


@pytest.mark.parametrize(
    ("scope", "form", "workers"),
    [("episode", "affinity", 2), ("corpus", "feature", 0)],
)
def test_resume_with_a_teachers_prototypes_and_distillation(
    compose_tiny: Compose, tmp_path: Path, scope: str, form: str, workers: int
) -> None:
    teacher = ("teacher=minilm", "teachers.minilm.dims=6", f"teacher.scope={scope}", f"distillation={form}")
    words = logging(*teacher, f"teacher.cache={tmp_path}", "run.episodes=3")
    words += ["prototype.warmup_episodes=0"]  # the corpus' labels are of the first episode
    uninterrupted = whole_run(fill_caches(compose_tiny("protoclip", *words)), tmp_path / "kept")
    figures = metrics(uninterrupted.last)
    uninterrupted.config.num_workers = workers
    uninterrupted.resumed(2)
    assert metrics(uninterrupted.last) == figures
    assert "train/minilm_loss" in figures
    assert "train/distillation_loss" in figures


def metrics(checkpoint: Path) -> str:
    """Rows of all figures but times."""
    text = (checkpoint.parent.parent / "metrics.csv").read_text()
    assert text.startswith("epoch,step,")
    for name in ("train/loss", "validation/loss", "validation/retrieval/mean_recall", "lr-AdamW"):
        assert name in text.splitlines()[0]
    assert "seconds" not in text
    return text


@pytest.mark.parametrize("method", METHODS)
def test_a_kill_after_a_checkpoint_loses_no_row(compose_tiny: Compose, tmp_path: Path, method: str) -> None:
    """Lightning logs what an episode has gathered after its checkpoint; here, nothing is left to log by then."""

    class Killed(BaseException):
        pass

    class Kill(Callback):
        def __init__(self) -> None:
            self.text = ""

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 2:
                assert metrics(checkpoint) == self.text
                raise Killed

    class Saved(Checkpoint):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            kill.text = metrics(checkpoint) if trainer.current_epoch == 1 else ""

    config = compose_tiny(method, *logging())
    datamodule = build_datamodule(config)
    directory = find_run(config, datamodule)
    checkpoint = directory.path / "checkpoints" / "last.ckpt"
    trainer, kill = build_trainer(config, datamodule), Kill()
    trainer.callbacks[:] = [kill, *trainer.callbacks, Saved()]  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        trainer.fit(build_module(config), datamodule=datamodule)
    assert kill.text.count("\n") > 3


def test_every_episode_draws_other_pairs_in_another_order(whole: Callable[[str], Whole]) -> None:
    by_episode = [[s for s in whole("clip").seen.samples if s[0] == episode] for episode in range(EPISODES)]
    assert [len(samples) for samples in by_episode] == [32] * EPISODES
    assert len({tuple(position for _, position, _ in samples) for samples in by_episode}) == EPISODES
    assert len({frozenset(index for *_, index in samples) for samples in by_episode}) == EPISODES


def test_clip_and_protoclip_see_the_same_stream(whole: Callable[[str], Whole]) -> None:
    clip, protoclip = (whole(method).seen.samples for method in METHODS)
    assert clip == protoclip


def test_refresh_every_keeps_pairs_and_labels_across_a_resume(compose_tiny: Compose, tmp_path: Path) -> None:
    words = ["episode.refresh_every=2", "prototype.warmup_episodes=0"]
    whole_run(compose_tiny("protoclip", *words), tmp_path / "kept").resumed(3)


def test_checkpoints_hold_the_bank_and_load_into_a_fresh_module(whole: Callable[[str], Whole]) -> None:
    uninterrupted = whole("protoclip")
    module = build_module(uninterrupted.config)
    module.load_state_dict(uninterrupted.state["state_dict"], strict=True)
    assert isinstance(module, ImageTextPretraining)
    bank = module.banks["prototype"]
    assert int(bank.block) == EPISODES - 1  # type: ignore[arg-type]
    assert bool((bank.image.labels >= 0).all())  # type: ignore[union-attr, operator]
