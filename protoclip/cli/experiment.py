"""One run: built by either front door, trained, tested, and described in its directory."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from rich.console import Console

from callbacks.evaluation import Evaluation, TaskResult, tests_all
from callbacks.locked_image_tuning import LockedImageTuning
from callbacks.phase_timer import PhaseTimer, relative_epoch, total_seconds
from callbacks.prototype_refresh import PrototypeRefresh
from datamodules.datamodule import ImageTextDataModule
from datamodules.unopened import UnopenedCorpus
from protoclip.cli.build import (
    build_datamodule,
    build_module,
    build_trainer,
    check_settings,
    check_teachers,
    check_views,
    find_run,
    prepare_processes,
)
from protoclip.distributed import on_rank_zero
from protoclip.module import ImageTextPretraining
from protoclip.reports.rows import Row
from protoclip.reports.screen import print_rows
from protoclip.runs import SETTINGS, Run, git_revision, now

C = TypeVar("C", bound=Callback)

NOISE = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*Total length of `list` across ranks is zero.*",
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*does not have many workers.*",
    r".*when logging on epoch level in distributed setting.*",
    r".*is smaller than the logging interval.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*The dirpath has changed from.*",
    r".*LightningCLI's args parameter is intended to run from within Python.*",
)
"""Warnings of the libraries about what is as it should be here."""


def screen() -> Console:
    """Where the first process prints, and no other."""
    return Console(quiet=getattr(rank_zero_only, "rank", 0) != 0)


def quiet() -> None:
    """Keep the libraries' tips and device lines off the screen."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


@dataclass
class Experiment:
    """A run and the parts that carry it out.

    Attributes:
        run: its directory.
        module: the model.
        datamodule: its data.
        trainer: Lightning's.
        settings: the LightningCLI file that repeats it, ``${run_dir}`` left open.
        config: the resolved Hydra config, None where the run comes of a file.
        console: where to print.
    """

    run: Run
    module: ImageTextPretraining
    datamodule: ImageTextDataModule
    trainer: pl.Trainer
    settings: Mapping[str, Any]
    config: str | None = None
    console: Console = field(default_factory=screen)
    _trained: bool = False

    def __post_init__(self) -> None:
        if self.trains:
            check_views(self.module, self.datamodule)
            check_teachers(self.module, self.datamodule, self.trainer.callbacks)  # type: ignore[attr-defined]
            self.datamodule.check_processes(self.trainer.world_size)
        prepare_processes(self.trainer)
        try:
            self.module.optimizer_factory([{"params": [torch.nn.Parameter(torch.zeros(()))]}])
        except (TypeError, ValueError) as error:  # torch's own, before anything is written
            raise ValueError(f"optimizer.optimizer: {error}") from error
        self._check_monitors()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LockedImageTuning):
                callback.setup(self.trainer, self.module, "fit")  # refuses a start that does not fit

    @property
    def trains(self) -> bool:
        """Whether there is a corpus to train on; without, the model is evaluated as it comes."""
        return not isinstance(self.datamodule.corpus, UnopenedCorpus)

    def _check_monitors(self) -> None:
        """Refuse to watch what no task gives, before the first episodes are trained.

        Raises:
            ValueError: with the tasks that there are.
        """
        tasks = self._callback(Evaluation).tasks["validation"]
        for callback in self.trainer.checkpoint_callbacks:
            assert isinstance(callback, ModelCheckpoint)
            parts = (callback.monitor or "").split("/")
            if len(parts) == 3 and parts[0] == "validation" and parts[1] not in tasks:
                known = ", ".join(tasks) or "none"
                raise ValueError(
                    f"evaluation.monitor={'/'.join(parts)} names no task of evaluation.validation: {known}"
                )

    def fit(self) -> None:
        """Train to the end, from the last finished episode on."""
        if self.run.done:
            self.console.print(f"{self.run.path} is finished: nothing to do", soft_wrap=True)
            return
        files = {SETTINGS: OmegaConf.to_yaml(OmegaConf.create(dict(self.settings)))}
        if self.config is not None:
            files["config.yaml"] = self.config
        self.run.describe(
            files,
            manifest=self.datamodule.corpus.fingerprint,
            seed=self.settings["seed_everything"],
            episodes=self.trainer.max_epochs,
        )
        self.console.print(f"{self.run.path}: {'going on after the last episode' if self.run.last else 'starting'}")
        self.trainer.fit(self.module, datamodule=self.datamodule, ckpt_path=self.run.last, weights_only=True)
        self._trained = True
        if faults := self.datamodule.faults:
            kinds = ", ".join(f"{number} {kind}" for kind, number in faults.items())
            self.console.print(f"{sum(faults.values())} samples could not be used and were replaced ({kinds})")

    def validate(self, ckpt: Path | None = None) -> None:
        """Run the validation tasks and show what they give.

        Raises:
            ValueError: there is no set, or a task cannot score.
        """
        path = self._ckpt(ckpt)
        self._check_sets("validation")
        self.trainer.validate(self.module, datamodule=self.datamodule, ckpt_path=path, weights_only=True)

    def test(self, ckpt: Path | None = None) -> None:
        """Run the test tasks and keep their rows; a run that was trained to the end is then finished.

        Args:
            ckpt: to take the weights from; None for the run's last.

        Raises:
            ValueError: there is no set, or a task cannot score; the others' rows are kept.
        """
        path = self._ckpt(ckpt)
        if not self._trained:
            self._check_sets("test")
        self._extract(path)
        on_rank_zero(lambda: self.run.write_rows(self._rows()))
        print_rows(self.run.rows, self.console)
        for name, reason in self._callback(Evaluation).failed.items():
            raise ValueError(f"task {name}: {reason}")
        if len(self._callback(PhaseTimer).episodes) == self.trainer.max_epochs and ckpt is None:
            on_rank_zero(self.run.finish)

    def predict(self, ckpt: Path | None = None) -> None:
        """Store the features of the test sets, for ``test`` and ``protoclip.runs.features``.

        Args:
            ckpt: to take the weights from; None for the run's last.

        Raises:
            ValueError: there is no test set, or only a part of it would be read.
        """
        self._check_sets("test")
        if not tests_all(self.trainer):
            raise ValueError("features are stored of whole sets: leave trainer.limit_test_batches out")
        self._callback(Evaluation).scores = False
        path = self._ckpt(ckpt)
        self._extract(path)
        for name, stored in self._callback(Evaluation).stored.items():
            self.console.print(f"{name}: {stored.pictures}", soft_wrap=True)

    def _extract(self, path: Path | None) -> None:
        """Go through the test sets, and remember where their features are."""
        self.trainer.test(self.module, datamodule=self.datamodule, ckpt_path=path, weights_only=True, verbose=False)
        if stored := self._callback(Evaluation).stored:
            self.run.write_features(stored)

    def _check_sets(self, part: str) -> None:
        """Refuse to evaluate on nothing.

        Raises:
            ValueError: with what to choose.
        """
        if not getattr(self.datamodule, part):
            missing = "; ".join(self.datamodule.missing.values())
            raise ValueError(missing or f"there is no {part} set: choose evaluation=NAME or 'set=[NAME,...]'")

    def _ckpt(self, ckpt: Path | None) -> Path | None:
        """The file to load; None where the module was trained in this process, or its towers brought weights."""
        path = ckpt or self.run.last
        if self._trained and ckpt is None:
            return None
        self.trainer.loggers = []  # a trainer that has not trained would log at step 0
        if path is None and self.trains:
            raise ValueError(f"{self.run.path} holds no checkpoint: train it first, or give ckpt=FILE")
        return path

    def _rows(self) -> list[Row]:
        """One row per evaluated task."""
        evaluation, timer = self._callback(Evaluation), self._callback(PhaseTimer)
        results, cost = dict(evaluation.results), {}
        if timer.episodes:
            seconds = total_seconds(timer.episodes)
            cost = {
                "episodes": float(len(timer.episodes)),
                "steps": float(timer.steps),
                "pairs": float(timer.steps * self.datamodule.batch_size * self.trainer.accumulate_grad_batches),
                "seconds": sum(seconds.values()),
                "seconds_per_episode": median(sum(total_seconds([episode]).values()) for episode in timer.episodes),
                "relative_epoch": relative_epoch(timer.episodes),
            } | {f"seconds_{name}": value for name, value in seconds.items()}
            results["cost"] = TaskResult(cost)
        results |= self._refreshed()
        run = self.settings["run"]
        return [
            Row(
                run=self.run.hash,
                name=run["name"],
                git=git_revision(),
                model=run["towers"],
                method=run["method"],
                seed=self.settings["seed_everything"],
                data={"name": run["corpus"], "fingerprint": self.datamodule.corpus.fingerprint},
                task=task,
                metrics=dict(result.metrics),
                counts=result.counts,
                prompts=result.prompts,
                sets=result.sets,
                cost=cost,
                time=now(),
            )
            for task, result in results.items()
        ]

    def _refreshed(self) -> dict[str, TaskResult]:
        """The last refresh of the prototypes, where there was one."""
        found = [callback for callback in self.trainer.callbacks if isinstance(callback, PrototypeRefresh)]  # type: ignore[attr-defined]
        figures = {name: value for callback in found for name, value in callback.figures.items()}
        metrics = {name.removeprefix("prototypes/").replace("/", "_"): value for name, value in figures.items()}
        return {"prototypes": TaskResult(metrics)} if metrics else {}

    def _callback(self, kind: type[C]) -> C:
        return next(callback for callback in self.trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]


def run_experiment(config: DictConfig, *, console: Console | None = None) -> Run:
    """Train, test and write the rows of one config; resume an unfinished run, skip a finished one."""
    console = console or screen()
    quiet()
    if config.ckpt is not None:
        raise ValueError("ckpt is for protoclip validate, test and predict: leave it out to train")
    settings = check_settings(config)
    datamodule = build_datamodule(config)
    run = find_run(config, datamodule)
    if run.done:
        console.print(f"{run.path} is finished: nothing to do", soft_wrap=True)
        print_rows(run.rows, console)
        return run
    module = build_module(config)
    trainer = build_trainer(config, datamodule)
    settings["trainer"]["max_epochs"] = trainer.max_epochs
    resolved = OmegaConf.to_yaml(config, resolve=True)
    experiment = Experiment(run, module, datamodule, trainer, settings, resolved, console)
    with run.lock():
        if not run.done:  # by another process, meanwhile
            experiment.fit()
            experiment.test()
    return run
