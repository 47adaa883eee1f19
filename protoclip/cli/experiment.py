"""One run from a config to rows of results."""

import logging
import warnings
from statistics import median

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from callbacks.evaluation import Evaluation, TaskResult
from callbacks.phase_timer import PhaseTimer, relative_epoch, total_seconds
from datamodules.datamodule import ImageTextDataModule
from protoclip.cli.build import build_datamodule, build_module, build_trainer, check_views, find_run
from protoclip.module import ImageTextPretraining
from protoclip.reports.rows import Row
from protoclip.reports.screen import print_rows
from protoclip.runs import Run, git_revision, now

NOISE = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*Total length of `list` across ranks is zero.*",
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*does not have many workers.*",
    r".*is smaller than the logging interval.*",
)
"""Warnings of the libraries about what is as it should be here."""


def run_experiment(config: DictConfig, *, console: Console | None = None) -> Run:
    """Train, test and write the rows of one config; resume an unfinished run, skip a finished one."""
    console = console or Console()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and device lines
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    datamodule = build_datamodule(config)
    run = find_run(config, datamodule)
    if run.done:
        console.print(f"{run.path} is finished: nothing to do")
        print_rows(run.rows, console)
        return run
    module = build_module(config)
    check_views(module, datamodule)
    trainer = build_trainer(config, datamodule)
    with run.lock():
        _fit_and_test(config, run, module, datamodule, trainer, console)
    return run


def _fit_and_test(
    config: DictConfig,
    run: Run,
    module: ImageTextPretraining,
    datamodule: ImageTextDataModule,
    trainer: pl.Trainer,
    console: Console,
) -> None:
    run.describe(OmegaConf.to_yaml(config), datamodule.train.fingerprint)
    console.print(f"{run.path}: {'going on after the last episode' if run.last else 'starting'}")
    trainer.fit(module, datamodule=datamodule, ckpt_path=run.last, weights_only=True)
    trainer.test(module, datamodule=datamodule, verbose=False)
    run.write_rows(result_rows(config, run, trainer, datamodule))
    print_rows(run.rows, console)
    run.finish()


def result_rows(config: DictConfig, run: Run, trainer: pl.Trainer, datamodule: ImageTextDataModule) -> list[Row]:
    """One row per evaluated task."""
    evaluation = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluation))  # type: ignore[attr-defined]
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, PhaseTimer))  # type: ignore[attr-defined]
    seconds = total_seconds(timer.episodes)
    cost = {
        "episodes": float(trainer.current_epoch),
        "steps": float(trainer.global_step),
        "pairs": float(trainer.global_step * datamodule.batch_size),
        "seconds": sum(seconds.values()),
        "seconds_per_episode": median(sum(total_seconds([episode]).values()) for episode in timer.episodes),
        "relative_epoch": relative_epoch(timer.episodes),
    } | {f"seconds_{name}": value for name, value in seconds.items()}
    results = evaluation.results | {"cost": TaskResult(metrics=cost, counts={}, prompts=None)}
    return [
        Row(
            run=run.hash,
            name=config.name,
            git=git_revision(),
            model=config.towers.name,
            method=config.method,
            seed=config.seed,
            data={"name": config.data.name, "fingerprint": datamodule.train.fingerprint},
            task=task,
            metrics=dict(result.metrics),
            counts=result.counts,
            prompts=result.prompts,
            cost=cost,
            time=now(),
        )
        for task, result in results.items()
    ]
