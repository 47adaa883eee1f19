"""Words and manifests with one mistake each, drawn at random: what a tired user types."""

import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image

from protoclip.cli.translate import leaves
from tests.conftest import TINY, TINY_PROTOTYPES

WORDS = (*(word for word in TINY if "run.episodes" not in word), *TINY_PROTOTYPES, "run.episodes=1")
MIRRORS = ("model", "datamodule", "hydra", "run_dir", "name", "runs", "compare", "experiment", "logger", "ckpt")
"""Parts of the config that a user does not set, or that take any text."""

GROUPS = ("method", "towers", "data", "views", "optimizer", "trainer", "callbacks", "evaluation")
POSITIVE = (
    *("batch_size", "episode.size", "episode.refresh_every", "towers.image_size", "towers.embed_dim"),
    *("towers.text_layers", "heads.prototype.hidden_dim", "heads.prototype.out_dim", "prototype.kmeans.redo"),
    *("evaluation.every", "trainer.log_every_n_steps", "run.episodes", "prototype.images_per_prototype"),
    *("temperatures.clip.init", "prototype.target_temperature", "data.train.size", "temperatures.prototype.max_scale"),
)
NOT_NEGATIVE = (
    *("num_workers", "prototype.kmeans.iterations", "prototype.warmup_episodes", "optimizer.weight_decay"),
    *("trainer.gradient_clip_val", "heads.prototype.hidden_layers", "optimizer.schedule.final"),
)
SHARES = ("optimizer.schedule.warmup", "data.train.noise", "terms.image_text.label_smoothing")
CHOICES = (
    *("episode.draw", "prototype.labels", "prototype.source", "prototype.kmeans.backend", "prototype.empty"),
    *("heads.prototype.norm", "trainer.precision", "data.train.split"),
)
RELATIONS = {
    "episode.size=4096": "episode.size",
    "batch_size=33": "batch_size",
    "prototype.images_per_prototype=0.5": "prototype.num_prototypes",
    "prototype.num_prototypes=3": "prototype.num_prototypes",
    "prototype.kmeans.device=cuda": "kmeans.device",
    "run.epochs=2": "run.epochs",
    "run.episodes=null": "run.episodes",
    "terms.prototype.head=other": "heads.other",
    "terms.prototype.temperature=other": "temperatures.other",
    "terms.image_text.pairs=[[image,other]]": "other",
    "episode={replacement:true,draw:partition}": "episode.replacement",
    "trainer.accelerator=tpu": "trainer",
    "trainer.devices=0": "trainer",
    "method=clip,protoclip": "method",
    "ckpt=last.ckpt": "ckpt",
    "optimizer.optimizer.lr=-1": "optimizer",
}
"""Words that do not go with the others, and what the message names."""


@dataclass(frozen=True)
class BadInput:
    """Words with one mistake, and the name that the message must have."""

    words: tuple[str, ...]
    named: str
    base: tuple[str, ...] = WORDS


def bad_inputs(seed: int, count: int, folder: Path) -> Iterator[BadInput]:
    """Draw mistakes.

    Args:
        seed: of the draws.
        count: how many.
        folder: for the manifests.
    """
    rng = random.Random(seed)
    options = _options()
    kinds: list[Callable[[random.Random, dict[str, Any], Path], BadInput]] = [
        *[_misspelt, _wrong_type] * 4,
        *[_out_of_range] * 3,
        *[_no_such_choice, _unknown_argument, _relation, _unreadable_word, _manifest] * 2,
    ]
    for _ in range(count):
        yield rng.choice(kinds)(rng, options, folder)


def _options() -> dict[str, Any]:
    """Scalar options by name, with their values."""
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=list(WORDS))
    plain = OmegaConf.to_container(config, resolve=True)
    named = {
        ".".join(path): value for path, value in leaves(plain) if path[0] not in MIRRORS and "_target_" not in path
    }
    del named["data.num_classes"]  # other options may refer to it, and none does here
    return {name: value for name, value in named.items() if not name.startswith("teacher.")}  # nor to these


def _misspelt(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    name = rng.choice([*options, *GROUPS])
    while True:
        place = rng.randrange(len(name))
        letter = rng.choice(string.ascii_lowercase)
        wrong = rng.choice(
            [name[:place] + letter + name[place + 1 :], name[:place] + letter + name[place:], name + letter]
        )
        if wrong not in options and wrong not in GROUPS and not any(known.startswith(f"{wrong}.") for known in options):
            return BadInput((f"{wrong}=1",), wrong)


def _wrong_type(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    numbers = [name for name, value in options.items() if isinstance(value, int | float) and not name.endswith("sync")]
    name = rng.choice(numbers)
    free = "_cfg." in name or name == "trainer.devices"  # told in the words of open_clip and Lightning
    word = f"{name}={rng.choice(['abc', '[1,2]', '{a:1}', 'five', '1x'])}"
    return BadInput((word,), name.rpartition(".")[2] if free else name)


def _out_of_range(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    name, values = rng.choice(
        [(name, [0, -1, -7]) for name in POSITIVE]
        + [(name, [-1, -3]) for name in NOT_NEGATIVE]
        + [(name, [-0.5, 1.5, 7]) for name in SHARES]
    )
    return BadInput((f"{name}={rng.choice(values)}",), name)


def _no_such_choice(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    name = rng.choice([*GROUPS, *CHOICES])
    return BadInput((f"{name}={_word(rng)}",), name.rpartition(".")[2])


def _unknown_argument(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    parents = ("terms.image_text", "terms.prototype", "heads.prototype", "optimizer.optimizer", "callbacks.phase_timer")
    name = f"{rng.choice([*parents, 'trainer', 'data.train', 'temperatures.clip', 'towers'])}.{_word(rng)}"
    return BadInput((f"+{name}=1",), name.rpartition(".")[2])


def _relation(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    words, named = rng.choice(list(RELATIONS.items()))
    return BadInput((words,), named)


def _unreadable_word(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    name = rng.choice(list(options))
    word = f"{name}{rng.choice(['=[1', '={a', '=(1', '=[1,,', '=}', '=]'])}"
    return BadInput((word,), name)


def _manifest(rng: random.Random, options: dict[str, Any], folder: Path) -> BadInput:
    """A table with something wrong; the message names the file, or the option that finds it."""
    kind = rng.choice(list(MANIFESTS))
    stem = folder / f"{_word(rng)}"
    path, named = MANIFESTS[kind](stem, rng)
    words = ("data=manifest", *([f"data.path='{path}'"] if path else ()), "episode.size=1", "batch_size=1")
    base = tuple(word for word in WORDS if not word.startswith(("data.", "episode.size", "batch_size")))
    return BadInput((*words, "prototype.images_per_prototype=1"), named, base)


def _word(rng: random.Random) -> str:
    return "x" + "".join(rng.choices(string.ascii_lowercase, k=7))


def _write(stem: Path, suffix: str, content: bytes) -> tuple[Path, str]:
    path = stem.with_suffix(suffix)
    path.write_bytes(content)
    return path, path.name


def _truncated_parquet(stem: Path, rng: random.Random) -> tuple[Path, str]:
    import pandas as pd

    path = stem.with_suffix(".parquet")
    pd.DataFrame({"filepath": ["a.png"] * 50, "title": ["a cat"] * 50}).to_parquet(path)
    path.write_bytes(path.read_bytes()[: rng.randrange(10, 400)])
    return path, path.name


def _jsonl(stem: Path, rng: random.Random) -> tuple[Path, str]:
    lines = [json.dumps({"filepath": "a.png", "title": "a cat"})] * 3
    lines.insert(rng.randrange(4), rng.choice(["{", "[]", "nothing", '{"filepath": }']))
    return _write(stem, ".jsonl", "\n".join(lines).encode())


MANIFESTS: dict[str, Callable[[Path, random.Random], tuple[Path | None, str]]] = {
    "missing": lambda stem, rng: (stem.with_suffix(".tsv"), stem.name),
    "no path": lambda stem, rng: (None, "data.path"),
    "folder": lambda stem, rng: (stem.parent, stem.parent.name),
    "empty": lambda stem, rng: _write(stem, rng.choice([".tsv", ".csv", ".jsonl", ".parquet"]), b""),
    "header": lambda stem, rng: _write(stem, ".csv", b"filepath,title\n"),
    "column": lambda stem, rng: _write(stem, ".tsv", b"filepath\tcaption\na.png\ta cat\n"),
    "separator": lambda stem, rng: _write(stem, ".tsv", b"filepath,title\na.png,a cat\n"),
    "blank": lambda stem, rng: _write(stem, ".csv", b"filepath,title\na.png, \n,a cat\n"),
    "binary": lambda stem, rng: _write(stem, rng.choice([".tsv", ".csv", ".jsonl"]), rng.randbytes(500)),
    "suffix": lambda stem, rng: _write(stem, ".xls", b"filepath,title\na.png,a cat\n"),
    "jsonl": _jsonl,
    "parquet": _truncated_parquet,
}


def write_picture(folder: Path) -> None:
    """The picture that the manifests name."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
