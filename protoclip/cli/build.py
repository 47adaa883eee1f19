"""From a composed config to a module, a datamodule and a trainer."""

import atexit
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from callbacks.prompts import prompts_digest
from callbacks.prototype_refresh import PrototypeRefresh
from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import episode_count
from datamodules.sources import Corpus, Pictures
from datamodules.text_views import Masked
from protoclip.cli.explain import explain
from protoclip.cli.translate import origin, place, translate
from protoclip.distributed import leave
from protoclip.heads import LinearHead, ProjectionHead
from protoclip.instantiate import SettingsError, check, instantiate
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import PrototypeBank, TeacherClusters
from protoclip.ranges import PositiveFloat, PositiveInt
from protoclip.runs import Run, config_hash
from protoclip.sync_batchnorm import SyncBatchNorms
from protoclip.terms import FeatureDistillation, Prototype, Term
from protoclip.tokenizer import Tokenizer


@dataclass
class RunSettings:
    """What a run is called and how long it is.

    Attributes:
        name: folder of the run below ``runs``.
        method: label of its rows.
        runs: folder of all runs.
        towers: label of its rows.
        corpus: label of its rows.
        episodes: length, or
        epochs: passes over the corpus; ``trainer.max_epochs`` wins over both.
    """

    name: str
    method: str
    runs: str
    towers: str
    corpus: str
    episodes: PositiveInt | None = None
    epochs: PositiveFloat | None = None


PARTS: dict[str, type] = {
    "trainer": pl.Trainer,
    "model": ImageTextPretraining,
    "data": ImageTextDataModule,
    "run": RunSettings,
}
LEAST = {"check_val_every_n_epoch": 1, "log_every_n_steps": 1, "accumulate_grad_batches": 1, "gradient_clip_val": 0}
"""What Lightning would stumble over later."""


def check_settings(config: DictConfig) -> dict[str, Any]:
    """Check every option against the type of what it sets, before anything is built.

    Returns:
        The settings (see ``translate``).

    Raises:
        ValueError: in one line, with the option's name.
    """
    settings = translate(config)
    for key, cls in PARTS.items():
        try:
            check(cls, settings[key], key)
        except SettingsError as error:
            raise ValueError(explain(str(error), config)) from error
    for name, least in LEAST.items():
        value = settings["trainer"].get(name)
        if value is not None and value < least:
            raise ValueError(f"{origin(config, ('trainer', name))}={value}: should be {least} or more")
    recipe = config.recipe
    if recipe.name != "matched" and recipe.of is None:
        raise ValueError(f"method={config.method} has no recipe={recipe.name}: choose recipe=matched")
    fused = settings["model"]["optimizer"].get("init_args", {}).get("fused")
    if fused and settings["trainer"].get("precision") == "16-mixed" and settings["trainer"].get("gradient_clip_val"):
        raise ValueError("a fused optimizer cannot clip under 16-mixed: set optimizer.optimizer.fused=false")
    return settings


def build_datamodule(config: DictConfig) -> ImageTextDataModule:
    """The datamodule of a config."""
    return instantiate(ImageTextDataModule, translate(config)["data"], "data")


def build_module(config: DictConfig) -> ImageTextPretraining:
    """The module of a config, its weights a function of the seed."""
    pl.seed_everything(config.seed, verbose=False)
    return instantiate(ImageTextPretraining, translate(config)["model"], "model")


def check_views(module: ImageTextPretraining, datamodule: ImageTextDataModule) -> None:
    """Refuse a method whose terms read what nobody makes, and towers that cannot read what is made.

    Raises:
        ValueError: with the views that there are, or the option to set.
    """
    datamodule.require(module.required_views)
    dataset = datamodule.dataset
    masked = [name for name, view in dataset.text_views.items() if name in dataset.made and isinstance(view, Masked)]
    for name, term in module.terms.items():
        assert isinstance(term, Term)
        if missing := sorted({*term.targets} - {f"{view}_labels" for view in masked}):
            raise ValueError(f"term {name} reads {missing[0]}, which a masked text view makes: bind it to one")
    if masked:
        assert isinstance(datamodule.tokenize, Tokenizer)
        if module.towers.text.vocab_size <= datamodule.tokenize.mask_id:
            raise ValueError(f"the text view {masked[0]!r} has mask tokens: set towers.mask_token=true")
    entrance: Any = getattr(module.towers.image, "regions", None)
    read = dataset.made & dataset.region_views.keys()
    if entrance is not None and not read:
        raise ValueError("no term reads regions: set towers.roi_dim=null")
    for name in read:
        dim = dataset.region_views[name].dim(datamodule.corpus)
        if entrance is None or entrance.projection.in_features != dim:
            raise ValueError(f"the view {name!r} has {dim} numbers for a box: set towers.roi_dim={dim}")


def check_teachers(
    module: ImageTextPretraining, datamodule: ImageTextDataModule, callbacks: Iterable[Callback]
) -> None:
    """Refuse what learns from no teacher, from one that is not there, or from one of another width.

    Raises:
        ValueError: with the option to set.
    """
    refreshes = [callback for callback in callbacks if isinstance(callback, PrototypeRefresh)]
    if refreshes and not module.banks and not module.required_teachers:
        raise ValueError("no term learns from prototypes or a teacher: add teacher=NAME, or choose method=clip")
    widths = [*_widths(module, refreshes)]
    wanted = module.required_teachers | {teacher for _, teacher, _ in widths}
    if missing := sorted(wanted - set(datamodule.teachers)):
        chosen = f"set distillation.teacher={next(iter(datamodule.teachers))}, or " if datamodule.teachers else ""
        raise ValueError(f"the method reads the teacher {', '.join(missing)}: {chosen}add teacher={missing[0]}")
    for option, teacher, width in widths:
        dim = datamodule.teachers[teacher].dim
        if width != dim:
            raise ValueError(f"{option}={width}: the teacher {teacher} gives {dim} features: set {option}={dim}")


def _widths(module: ImageTextPretraining, refreshes: Iterable[PrototypeRefresh]) -> Iterator[tuple[str, str, int]]:
    """What is as wide as a teacher's features: the option that says so, the teacher, and the width."""
    for refresh in refreshes:
        for name, grouping in refresh.groupings.items():
            if isinstance(grouping, TeacherClusters) and name in module.terms:
                term = module.terms[name]
                assert isinstance(term, Prototype)
                bank = module.banks[term.bank]
                assert isinstance(bank, PrototypeBank)
                yield f"banks.{term.bank}.teacher_dim", grouping.teacher, bank.image.centroids.shape[1]
    for term in module.terms.values():
        if isinstance(term, FeatureDistillation):
            for key in term.keys:
                head = module.heads.get_submodule(f"{key.output}.{key.tower}")
                assert isinstance(head, LinearHead | ProjectionHead)
                yield f"{key.output}.dims", term.teacher, head.out_dim


def build_trainer(config: DictConfig, datamodule: ImageTextDataModule) -> pl.Trainer:
    """The trainer of a config; an episode is its epoch.

    Raises:
        ValueError: a run without length.
    """
    settings = on_this_machine(place(translate(config), config.run_dir))
    settings["trainer"]["max_epochs"] = run_length(settings["run"], datamodule)
    with trainer_mistakes():
        return instantiate(pl.Trainer, settings["trainer"], "trainer")


@contextmanager
def trainer_mistakes() -> Iterator[None]:
    """Tell what Lightning refuses when a trainer is made as what it is, a mistake in ``trainer``."""
    try:
        yield
    except (ImportError, MisconfigurationException, TypeError, ValueError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error


def prepare_processes(trainer: pl.Trainer) -> None:
    """Check what several processes need, before there are any, and see that none outlives this one.

    Raises:
        ValueError: a sweep of several devices.
    """
    if trainer.world_size > 1:
        if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
            raise ValueError("a sweep runs one process per job: set trainer.devices=1, or start each job by torchrun")
        assert trainer.strategy.launcher is not None
        atexit.register(leave)
        atexit.register(trainer.strategy.launcher.kill, signal.SIGKILL)  # after a fault they may wait for this process


def on_this_machine(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with plugins that they and the surroundings ask for: SLURM must not requeue, which saves in episodes."""
    plugins = [*(settings["trainer"].get("plugins") or ())]
    if settings["trainer"].get("sync_batchnorm"):
        plugins.append({"class_path": f"{SyncBatchNorms.__module__}.SyncBatchNorms"})
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        slurm = {"class_path": f"{SLURMEnvironment.__module__}.SLURMEnvironment", "init_args": {"auto_requeue": False}}
        plugins.append(slurm)
    settings["trainer"]["plugins"] = plugins
    return settings


def run_length(run: Mapping[str, Any], datamodule: ImageTextDataModule) -> int:
    """Episodes of a run, given as such or as passes over the corpus."""
    plan = datamodule.plan
    return episode_count(plan.size, plan.corpus_size, episodes=run["episodes"], epochs=run["epochs"])


def find_run(config: DictConfig, datamodule: ImageTextDataModule, extra: Mapping[str, Any] | None = None) -> Run:
    """The run directory of a config, whether it exists or not; its path becomes ``run_dir``.

    Args:
        config: composed by Hydra.
        datamodule: its datamodule, or another one that came of options beside the config.
        extra: whatever else decides the result.
    """
    sources: dict[str, Pictures | Corpus] = {"train": datamodule.corpus}
    sources |= {f"validation/{name}": pictures for name, pictures in datamodule.validation.items()}
    sources |= {f"test/{name}": pictures for name, pictures in datamodule.test.items()}
    config.run_dir = ""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    digest = config_hash(
        {str(key): value for key, value in plain.items()} | ({"extra": dict(extra)} if extra else {}),
        {name: pictures.fingerprint for name, pictures in sources.items()}
        | {f"teacher/{name}": cache.fingerprint for name, cache in datamodule.teachers.items()}
        | {f"view/{name}": rows.fingerprint for name, rows in datamodule.rows.items()}
        | {f"prompts/{name}": digest for name, pictures in sources.items() if (digest := prompts_digest(pictures))},
    )
    run = Run(Path(config.runs) / config.name / digest, digest)
    config.run_dir = str(run.path)
    return run
