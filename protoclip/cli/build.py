"""From a composed config to a module, a datamodule and a trainer."""

from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf

from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import episode_count
from datamodules.sources import Pictures
from protoclip.module import ImageTextPretraining
from protoclip.runs import Run, config_hash


def build_datamodule(config: DictConfig) -> ImageTextDataModule:
    """The datamodule of a config.

    Raises:
        ValueError: training views that the method's terms need are not configured.
    """
    datamodule = instantiate(config.datamodule)
    assert isinstance(datamodule, ImageTextDataModule)
    return datamodule


def build_module(config: DictConfig) -> ImageTextPretraining:
    """The module of a config, its weights a function of the seed."""
    pl.seed_everything(config.seed, verbose=False)
    module = instantiate(config.model)
    assert isinstance(module, ImageTextPretraining)
    return module


def check_views(module: ImageTextPretraining, datamodule: ImageTextDataModule) -> None:
    """Refuse a method whose terms read views that nobody makes.

    Raises:
        ValueError: with the views that there are.
    """
    made = {"image": set(datamodule.dataset.image_views), "text": set(datamodule.dataset.text_views)}
    for view, tower in module.required_views.items():
        if view not in made[tower]:
            raise ValueError(
                f"the method reads the {tower} view {view!r}, and views makes {', '.join(sorted(made[tower]))}: "
                f"choose other views, or bind the term to one of these"
            )


def build_trainer(config: DictConfig, datamodule: ImageTextDataModule) -> pl.Trainer:
    """The trainer of a config; an episode is its epoch.

    Raises:
        ValueError: more than one device, which is not supported yet, or a run without length.
    """
    size, corpus = datamodule.plan.size, datamodule.plan.corpus_size
    episodes = episode_count(size, corpus, episodes=config.run.episodes, epochs=config.run.epochs)
    plugins = list(instantiate(config.trainer.plugins))
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # requeueing would save inside an episode
    trainer = instantiate(
        config.trainer,
        max_epochs=episodes,
        plugins=plugins,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=list(instantiate(config.logger).values()),
    )
    assert isinstance(trainer, pl.Trainer)
    if trainer.world_size > 1:
        raise ValueError("training on several devices is not supported yet: set trainer.devices=1")
    return trainer


def find_run(config: DictConfig, datamodule: ImageTextDataModule) -> Run:
    """The run directory of a config, whether it exists or not; its path becomes ``run_dir``, and all is resolved."""
    sources: dict[str, Pictures] = {"train": datamodule.train}
    sources |= {f"validation/{name}": pictures for name, pictures in datamodule.validation.items()}
    sources |= {f"test/{name}": pictures for name, pictures in datamodule.test.items()}
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    digest = config_hash(
        {str(key): value for key, value in plain.items()},
        {name: pictures.fingerprint for name, pictures in sources.items()},
    )
    run = Run(Path(config.runs) / config.name / digest, digest)
    config.run_dir = str(run.path)
    OmegaConf.resolve(config)
    return run
