"""Real runs of composed configs, for the benchmarks of whole episodes and steps."""

from contextlib import redirect_stdout
from io import StringIO

import pytorch_lightning as pl
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from callbacks.phase_timer import PhaseTimer
from datamodules.datamodule import ImageTextDataModule
from protoclip.cli.build import build_datamodule, build_module, build_trainer, find_run

MEASURED = (
    *("data=scenes", "evaluation=none", "trainer.accelerator=cpu"),
    *("~callbacks.checkpoint_best", "~callbacks.checkpoint_last", "+trainer.enable_checkpointing=false"),
)
"""Without what an episode does not need: evaluation, and checkpoints, which a disk decides."""
TOY = (
    *("towers.image_size=32", "towers.context_length=16", "towers.embed_dim=16", "towers.text_layers=1"),
    *("towers.vision_cfg={width:8,layers:[1,1,1,1]}", "towers.text_cfg={width:16,heads:2}", "batch_size=8"),
)
"""Towers that train in milliseconds."""


def composed(*words: str, runs: str) -> DictConfig:
    """A config of overrides, its run directory under ``runs``."""
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides=[f"runs={runs}", *MEASURED, *words])


def fit(config: DictConfig, datamodule: ImageTextDataModule) -> pl.Trainer:
    """Train a config; the progress bar runs, and nobody sees it."""
    with redirect_stdout(StringIO()):
        find_run(config, datamodule)
        trainer = build_trainer(config, datamodule)
        trainer.fit(build_module(config), datamodule=datamodule)
    return trainer


def episodes(*words: str, runs: str) -> list[dict[str, float]]:
    """Seconds by phase of every episode of a run."""
    config = composed(*words, runs=runs)
    trainer = fit(config, build_datamodule(config))
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, PhaseTimer))  # type: ignore[attr-defined]
    return timer.episodes
