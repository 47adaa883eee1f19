"""Signals end a run in order (callbacks/interruption.py)."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.callbacks import Callback

from callbacks.interruption import Interrupted, Interruption
from datamodules.datamodule import ImageTextDataModule
from datamodules.scenes import ScenePairs
from protoclip.cli import train
from tests.conftest import TINY, TINY_PROTOTYPES
from tests.tiny import Batches, Built, build, tiny_config

WORDS = ("run.episodes=3", "prototype.warmup_episodes=1")


class Raise(Callback):
    """Sends a signal to the process at one place of the second episode, and remembers what came after it."""

    def __init__(self, place: str, number: signal.Signals = signal.SIGTERM) -> None:
        self.place, self.number = place, number
        self.later: list[str] = []
        self.sent = False

    def hear(self, place: str) -> None:
        if self.sent:
            self.later.append(place)
        elif place == self.place:
            self.sent = True
            signal.raise_signal(self.number)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.clock.listeners.insert(0, self)
        self.trainer = trainer

    def phase_changed(self, name: str | None, total: int | None) -> None:
        if self.trainer.current_epoch == 1:
            self.hear(str(name))

    def phase_advanced(self) -> None:
        self.hear("extraction batch")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            self.hear("step")

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            self.hear("validation batch")

    def on_test_batch_end(self, *_: object) -> None:
        self.hear("test batch")

    def on_test_epoch_end(self, *_: object) -> None:
        self.hear("score")


def fresh(runs: Path, *words: str) -> Built:
    built = build(tiny_config(runs, "protoclip", *WORDS, *words))
    built.datamodule.evaluation_batch_size = 12
    built.datamodule.validation = built.datamodule.test = {"scenes": ScenePairs("val", 30, image_size=32)}
    return built


@pytest.mark.parametrize(
    ("place", "later", "number"),
    [
        ("step", [], signal.SIGTERM),
        ("step", [], signal.SIGUSR1),
        ("extraction", ["extraction batch"], signal.SIGTERM),
        ("extraction batch", [], signal.SIGUSR1),
        ("clustering", ["back_translation", "training"], signal.SIGTERM),
        ("validation", [], signal.SIGUSR1),
        ("validation batch", [], signal.SIGTERM),
    ],
)
def test_training_ends_at_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, later: list[str], number: signal.Signals
) -> None:
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGUSR1)]
    built, sender = fresh(tmp_path), Raise(place, number)
    with pytest.raises(Interrupted) as raised:
        built.fit(sender)
    assert raised.value.code == 143
    assert [name for name in sender.later if name != "None"][: len(later)] == later
    assert not {"step", "validation batch"} & set(sender.later)
    assert capsys.readouterr().err == (
        f"{number.name} in episode 2: the same command goes on after the last finished episode\n"
    )
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert sorted(path.name for path in built.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(again(tmp_path, built).batches) == 8


def again(runs: Path, built: Built) -> Batches:
    """The rest of the run; it starts with the second of three episodes."""
    batches = Batches()
    fresh(runs).fit(batches, resume=built.checkpoints / "last.ckpt")
    assert int(batches.batches[0]["episode"][0]) == 1
    return batches


@pytest.mark.parametrize(("place", "later"), [("test batch", []), ("score", ["None"])])
def test_a_test_ends_at_its_next_batch(tmp_path: Path, place: str, later: list[str]) -> None:
    built, sender = fresh(tmp_path, "run.episodes=1"), Raise(place)
    built.fit(sender)
    with pytest.raises(Interrupted) if place == "test batch" else pytest.raises(KeyError):
        built.trainer.test(built.module, datamodule=built.datamodule, verbose=False)
        raise KeyError  # a signal during the score comes too late
    assert sender.later == later[: len(sender.later)]


def test_a_signal_after_the_last_step_ends_the_test(tmp_path: Path) -> None:
    class AtTheEnd(Callback):
        def on_train_end(self, *_: object) -> None:
            signal.raise_signal(signal.SIGUSR1)

    built = fresh(tmp_path, "run.episodes=1").fit(AtTheEnd())
    assert (built.checkpoints / "last.ckpt").exists()
    with pytest.raises(Interrupted):
        built.trainer.test(built.module, datamodule=built.datamodule, verbose=False)


def test_a_signal_while_lightning_sets_up_is_not_lost(tmp_path: Path) -> None:
    class Early(Callback):
        def on_train_start(self, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    built, batches = fresh(tmp_path), Batches()
    built.callbacks.insert(0, Early())
    assert not isinstance(built.callbacks[0], Interruption)
    with pytest.raises(Interrupted):
        built.fit(batches)
    assert not batches.batches


def test_workers_that_die_of_the_same_signal_do_not_hide_it(tmp_path: Path) -> None:
    """Schedulers send it to every process of a job."""

    class ToAll(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)
            for worker in trainer.train_dataloader._iterator._workers:  # type: ignore[union-attr]
                os.kill(worker.pid, signal.SIGTERM)
                worker.join()

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        fresh(tmp_path, "num_workers=2").fit(ToAll())
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_exit_code_of_the_command(tmp_path: Path) -> None:
    sender = "+callbacks.sender={_target_:tests.callbacks.test_interruption.Raise,place:step}"
    with pytest.raises(SystemExit) as raised:
        train([f"runs={tmp_path}", *TINY, *TINY_PROTOTYPES, sender])
    assert raised.value.code == 143
    (run,) = (tmp_path / "protoclip-scenes").iterdir()
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "lightning.yaml",
        "run.json",
    }


def test_other_errors_stay(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("something else")

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="something else"):
        fresh(tmp_path).fit(Fails())
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("told", [False, True])
def test_processes_agree_at_steps_and_extraction_batches_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Another process has the signal, and this one stops with it; the number of its evaluation batches is its own."""
    built = fresh(tmp_path)
    asked: list[tuple[bool, bool]] = []

    def agree(decision: bool, all: bool = True) -> bool:
        asked.append((decision, all))
        return told and len(asked) == 14

    class Alone(Callback):
        def on_fit_start(self, *_: object) -> None:
            monkeypatch.setattr(built.trainer.strategy, "reduce_boolean_decision", agree)
            monkeypatch.setattr(type(built.trainer), "world_size", 2)
            monkeypatch.setattr(ImageTextDataModule, "_place", (0, 1))  # nobody else extracts a part of the episode

        def on_validation_start(self, *_: object) -> None:
            self.before = len(asked)

        def on_validation_end(self, *_: object) -> None:
            assert len(asked) == self.before

    built.callbacks[:] = [callback for callback in built.callbacks if isinstance(callback, Interruption)]
    refresh = next(c for c in build(tiny_config(tmp_path, "protoclip", *WORDS)).callbacks if "Refresh" in str(type(c)))
    built.callbacks.append(refresh)
    if told:
        with pytest.raises(Interrupted):
            built.fit(Alone())
    else:
        built.fit(Alone())
    steps, batches = 4, 3
    assert len(asked) == (14 if told else 3 * steps + 2 * batches)
    assert set(asked) == {(False, False)}


def test_slurm_does_not_requeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    environment = build(tiny_config(tmp_path, "clip")).trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
