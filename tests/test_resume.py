"""A run that stops after any episode and is resumed equals the uninterrupted one bit for bit (traps 1, 2, 3, 18)."""

from collections.abc import Mapping, Sequence
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
from tests.tiny import locked

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


def run(config: DictConfig, *, stop_after: int | None = None, resume: Path | None = None) -> tuple[Recorder, Path]:
    """Train a config, from a checkpoint if one is given; returns what was seen and the last checkpoint."""
    datamodule = build_datamodule(config)
    directory = find_run(config, datamodule)
    module = build_module(config)
    trainer = build_trainer(config, datamodule)
    recorder = Recorder(stop_after)
    trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    torch.manual_seed(0 if resume is None else 999)  # a resumed process has other generators
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    last = directory.last
    assert last is not None
    return recorder, last


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


@pytest.mark.parametrize(
    ("method", "workers", "stops"),
    [
        *((method, workers, stops) for method in METHODS for workers, stops in ((0, range(1, EPISODES)), (2, [2]))),
        *((method, 0, [2]) for method in TINY_METHODS if method not in METHODS),
    ],
    ids=str,
)
def test_resume_after_every_episode(
    compose_tiny: Compose, tmp_path: Path, method: str, workers: int, stops: Sequence[int]
) -> None:
    words = logging(f"num_workers={workers}", f"run.episodes={EPISODES}")
    whole, last = run(compose_tiny(method, *words, runs=tmp_path / "whole"))
    steps = len(whole.losses) // EPISODES
    for stop in stops:
        runs = tmp_path / f"stopped_{stop}"
        first, checkpoint = run(compose_tiny(method, *words, runs=runs), stop_after=stop)
        second, resumed = run(compose_tiny(method, *words, runs=runs), resume=checkpoint)
        assert len(first.losses) == stop * steps
        assert first.samples + second.samples == whole.samples
        assert torch.equal(torch.stack(first.losses + second.losses), torch.stack(whole.losses))
        assert_equal(state(resumed), state(last))
        assert metrics(resumed) == metrics(last)
    queues = [value for name, value in state(last)["state_dict"].items() if name.endswith(".queue")]
    assert [bool(queue.any()) for queue in queues] == [True] * (method in {"declip", "defilip"})


def test_resume_before_at_and_after_the_lock_of_the_image_tower(compose_tiny: Compose, tmp_path: Path) -> None:
    words = logging(locked(0.5))
    whole, last = run(compose_tiny("protoclip", *words, runs=tmp_path / "whole"))
    for stop in range(1, EPISODES):
        runs = tmp_path / f"stopped_{stop}"
        first, checkpoint = run(compose_tiny("protoclip", *words, runs=runs), stop_after=stop)
        second, resumed = run(compose_tiny("protoclip", *words, runs=runs), resume=checkpoint)
        assert torch.equal(torch.stack(first.losses + second.losses), torch.stack(whole.losses))
        assert_equal(state(resumed), state(last))
        assert metrics(resumed) == metrics(last)


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
    whole, last = run(fill_caches(compose_tiny("protoclip", *words, runs=tmp_path / "whole")))
    words += [f"num_workers={workers}"]
    runs = tmp_path / "stopped"
    first, checkpoint = run(compose_tiny("protoclip", *words, runs=runs), stop_after=2)
    second, resumed = run(compose_tiny("protoclip", *words, runs=runs), resume=checkpoint)
    assert first.samples + second.samples == whole.samples
    assert torch.equal(torch.stack(first.losses + second.losses), torch.stack(whole.losses))
    assert_equal(state(resumed), state(last))
    assert metrics(resumed) == metrics(last)
    assert "train/minilm_loss" in metrics(last)
    assert "train/distillation_loss" in metrics(last)


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


@pytest.mark.parametrize("method", METHODS)
def test_workers_do_not_matter(compose_tiny: Compose, tmp_path: Path, method: str) -> None:
    recorded = [run(compose_tiny(method, f"num_workers={n}", runs=tmp_path / str(n)))[0] for n in (0, 2)]
    assert recorded[0].samples == recorded[1].samples
    assert torch.equal(torch.stack(recorded[0].losses), torch.stack(recorded[1].losses))


def test_every_episode_draws_other_pairs_in_another_order(compose_tiny: Compose) -> None:
    recorder, _ = run(compose_tiny("clip", "num_workers=2"))
    by_episode = [[s for s in recorder.samples if s[0] == episode] for episode in range(EPISODES)]
    assert [len(samples) for samples in by_episode] == [32] * EPISODES
    assert len({tuple(position for _, position, _ in samples) for samples in by_episode}) == EPISODES
    assert len({frozenset(index for *_, index in samples) for samples in by_episode}) == EPISODES


def test_clip_and_protoclip_see_the_same_stream(compose_tiny: Compose, tmp_path: Path) -> None:
    streams = [run(compose_tiny(method, runs=tmp_path / method))[0].samples for method in METHODS]
    assert streams[0] == streams[1]


def test_refresh_every_keeps_pairs_and_labels_across_a_resume(compose_tiny: Compose, tmp_path: Path) -> None:
    words = ["episode.refresh_every=2", "prototype.warmup_episodes=0"]
    whole, last = run(compose_tiny("protoclip", *words, runs=tmp_path / "whole"))
    runs = tmp_path / "stopped"
    first, checkpoint = run(compose_tiny("protoclip", *words, runs=runs), stop_after=3)
    second, resumed = run(compose_tiny("protoclip", *words, runs=runs), resume=checkpoint)
    assert torch.equal(torch.stack(first.losses + second.losses), torch.stack(whole.losses))
    assert_equal(state(resumed), state(last))


def test_checkpoints_hold_the_bank_and_load_into_a_fresh_module(compose_tiny: Compose) -> None:
    config = compose_tiny()
    _, checkpoint = run(config)
    module = build_module(config)
    module.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"], strict=True)
    assert isinstance(module, ImageTextPretraining)
    bank = module.banks["prototype"]
    assert int(bank.block) == EPISODES - 1  # type: ignore[arg-type]
    assert bool((bank.image.labels >= 0).all())  # type: ignore[union-attr, operator]
