"""Configs of models that are evaluated and not trained: a run's checkpoint, or a model as open_clip has it.

The model comes from the run, or from open_clip; the words say on what and how it is evaluated, and nothing else. What
it was trained on stays closed.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from callbacks.evaluation import Evaluation
from datamodules.unopened import UnopenedCorpus
from protoclip.checkpoints import read_checkpoint
from protoclip.cli.compose import SEARCHPATH, compose_config
from protoclip.cli.resolvers import model_name
from protoclip.cli.translate import untranslated
from protoclip.runs import Run, checkpoint_in_run
from protoclip.towers.configs import FOLDER, HUB, WITH_WEIGHTS

EVALUATION = ("evaluation", "set", "task")
"""Groups that say what a model is evaluated on."""
HOW = (
    *("ckpt", "runs", "trainer", "num_workers", "prefetch", "callbacks", "logger", "datamodule.evaluation_batch_size"),
    SEARCHPATH,
)
"""Options of how it is."""
OPEN_CLIP = "open_clip"
KEPT = ("tokenize", "image_size", "mean", "std", "interpolation", "resize_mode", "plan", "batch_size")
"""Of a run's data, what its model reads, and what its cost is counted in."""


def compose_evaluation(words: Sequence[str]) -> DictConfig:
    """The config of a stage that trains nothing.

    Args:
        words: Hydra's. ``ckpt=`` a run directory or a file in its ``checkpoints`` brings its model, and
            ``towers=open_clip`` its own; other words mean the run that ``protoclip fit`` trains with them.

    Raises:
        ValueError: words of the model beside one that is given, a file that is no checkpoint, towers without weights.
    """
    given = next((word.partition("=")[2] for word in words if word.startswith("ckpt=")), "null")
    if given != "null":
        path = Path(given.strip("'\""))
        if found := checkpoint_in_run(path):
            return _of_run(words, *found)
        read_checkpoint(path)  # what is none is told before anything is made
    elif f"towers={OPEN_CLIP}" in words:
        return _of_open_clip(words)
    return compose_config(words)


def _of_run(words: Sequence[str], run: Run, ckpt: Path) -> DictConfig:
    """The model of a run, whose settings are checked already."""
    told = f"ckpt={ckpt}, whose run says what the model is: leave it out, or choose evaluation=... and 'set=[...]'"
    config = _composed(words, (*EVALUATION, *HOW), told)
    settings = run.settings
    labels, data = settings["run"], settings["data"]
    kept = {key: untranslated(data[key]) for key in KEPT if key in data}
    with open_dict(config):
        config.towers = {"name": labels["towers"], **_sizes(kept)}
        config.model = untranslated(settings["model"])
        config.model.towers.pretrained = None  # the checkpoint has all weights; those it began with need not be there
        for key, value in kept.items():
            config.datamodule[key] = value
        config.run = {"episodes": settings["trainer"]["max_epochs"], "epochs": None}
        config.ckpt = str(ckpt)
        if not _chooses(words, EVALUATION):
            _evaluate_as(config, settings)
        if not _chooses(words, ("trainer",)):
            config.trainer.precision = settings["trainer"].get("precision", config.trainer.precision)
    named = {"name": labels["name"], "method": labels["method"], "data": labels["corpus"]}
    _label(config, seed=settings["seed_everything"], **named)
    return _closed(config, run.facts["manifest"], kept["plan"]["size"])


def _of_open_clip(words: Sequence[str]) -> DictConfig:
    """Towers with open_clip's weights, under a method without heads."""
    told = "towers=open_clip, which is evaluated as it is: leave it out, or give a run of yours by ckpt=RUN_DIR"
    config = _composed(words, (*EVALUATION, *HOW, "towers"), told)
    name, pretrained = model_name(config.towers), config.towers.pretrained
    if pretrained is None and not name.startswith(WITH_WEIGHTS):
        raise ValueError(f"towers.name={name} has no weights of its own: add towers.pretrained=TAG, or a file")
    place = Path(pretrained or name.removeprefix(FOLDER))
    folder = name.startswith(FOLDER)
    on_disk = place.resolve().name if folder else place.stem if place.is_file() else None
    label = on_disk or pretrained or name.removeprefix(HUB)
    _label(config, seed=0, method=OPEN_CLIP, data=label, name=f"{OPEN_CLIP}-{label.replace('/', '-')}")
    files = place.glob("*") if folder else [place]
    return _closed(config, _weights_digest(files, name, label), config.episode.size)


def _composed(words: Sequence[str], allowed: Sequence[str], told: str) -> DictConfig:
    """The config of words that say nothing but what is allowed; without a word for it, nothing is evaluated."""
    for word in words:
        if not _chooses([word], allowed):
            raise ValueError(f"{word} does not go with {told}")
    chosen = any(word.partition("=")[0] == "evaluation" for word in words)
    return compose_config(["method=clip", *([] if chosen else ["evaluation=none"]), *words])


def _chooses(words: Sequence[str], options: Sequence[str]) -> bool:
    """Whether some word sets one of the options, or a part of it."""
    names = [word.lstrip("+~").partition("=")[0].partition("@")[0] for word in words]
    return any(name == option or name.startswith((f"{option}.", f"{option}/")) for name in names for option in options)


def _sizes(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What picture sets are made for."""
    return {"image_size": kept["image_size"], "context_length": kept["tokenize"].get("context_length")}


def _evaluate_as(config: DictConfig, settings: Mapping[str, Any]) -> None:
    """Evaluate on what the run is evaluated on."""
    target = f"{Evaluation.__module__}.{Evaluation.__name__}"
    callbacks = [untranslated(callback) for callback in settings["trainer"]["callbacks"]]
    tasks = next(callback for callback in callbacks if callback["_target_"] == target)
    for part in ("validation", "test"):
        config.evaluation[part] = {"pictures": untranslated(settings["data"][part]), "tasks": tasks[part]}


def _label(config: DictConfig, *, seed: int, method: str, data: str, name: str) -> None:
    """What the rows say of the model."""
    config.seed, config.method, config.data.name, config.name = seed, method, data, name


def _closed(config: DictConfig, fingerprint: str, size: int) -> DictConfig:
    """A config that trains nothing, and opens nothing that was trained on.

    Raises:
        ValueError: there is nothing to evaluate on.
    """
    if not (config.evaluation.test.pictures or config.evaluation.validation.pictures):
        raise ValueError("there is nothing to evaluate on: choose evaluation=NAME or 'set=[NAME,...]'")
    corpus = {"_target_": f"{UnopenedCorpus.__module__}.{UnopenedCorpus.__name__}"}
    with open_dict(config):
        config.logger = {}  # nothing is logged, and TensorBoard alone takes a tenth of a second
        config.datamodule.train = {**corpus, "fingerprint": fingerprint, "size": size}
        for key in ("image_views", "text_views", "region_views", "teachers"):
            config.datamodule[key] = {}
    return config


def _weights_digest(files: Iterable[Path], *names: str) -> str:
    """SHA-256 of names and of the files that there are."""
    digest = sha256("\n".join(names).encode())
    for file in sorted(path for path in files if path.is_file()):
        with file.open("rb") as opened:
            digest.update(file_digest(opened, "sha256").digest())
    return digest.hexdigest()
