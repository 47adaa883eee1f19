"""``protoclip data show``: a sheet of pairs as they are, and as training sees them under one or several named views."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import EpisodeSampler, SampleKey
from datamodules.views import MEAN, STD, to_pixels
from protoclip.cli.build import build_datamodule, check_settings
from protoclip.cli.compose import chosen_option, compose_config
from protoclip.cli.corpus import training_pairs
from protoclip.files import make_folder
from protoclip.reports.samples import SampleRow, sample_sheet
from protoclip.tokenizer import Tokenizer

PASSES = ("extract", "train")
"""Those over an episode, in their order."""


def show_pairs(
    words: Sequence[str], path: Path, *, pairs: int = 6, draws: int = 4, console: Console | None = None
) -> None:
    """Write a sheet of the first pairs of episode 0, each as it is and under several draws of every view.

    The draws are those that a pair in this place has in the passes of episode 0, of episode 1 and so on: the first two
    are what a run of these words extracts features from and trains on. Of a corpus smaller than an episode, all is one.

    Args:
        words: Hydra overrides; ``views=none,light`` shows several named views side by side.
        path: file to write, in the format of its ending.
        pairs: rows of the sheet, at most those of an episode.
        draws: of each image view.
        console: where to print.

    Raises:
        ValueError: less than one pair or draw, or a file of no format or in no folder.
    """
    if pairs < 1 or draws < 1:
        raise ValueError(f"{pairs} pairs and {draws} draws are nothing to show: set --pairs and --draws to 1 or more")
    if path.suffix.removeprefix(".") not in Figure().canvas.get_supported_filetypes():
        raise ValueError(f"{path} is not named as a picture file: end --out in .png, .pdf or .svg")
    make_folder(path.parent)
    configs = _by_views(words)
    for config in configs.values():
        check_settings(config)
    size = len(training_pairs(next(iter(configs.values()))))
    for config in configs.values():
        if not config.episode.replacement:  # a corpus too small to train on can be looked at
            config.episode.size = min(config.episode.size, size)
            config.batch_size = min(config.batch_size, size)
    datamodules = {name: build_datamodule(config) for name, config in configs.items()}
    for datamodule in datamodules.values():
        datamodule.dataset = datamodule.dataset.only(datamodule.dataset.made)  # refuses what cannot be made
    plan, config = next(iter(datamodules.values())).plan, next(iter(configs.values()))
    keys = list(EpisodeSampler(plan, purpose=PASSES[0], batch_size=1))[:pairs]
    passes = [(draw // len(PASSES), PASSES[draw % len(PASSES)]) for draw in range(draws)]
    rows = [_row(key, datamodules, passes, config) for key in keys]
    sample_sheet(
        path,
        rows,
        title=f"{config.data.name}, {config.towers.image_size} pixels, seed {config.seed}",
        columns=[f"{purpose} {episode}" for episode, purpose in passes],
    )
    (console or Console()).print(f"wrote {path}", soft_wrap=True)


def _by_views(words: Sequence[str]) -> dict[str, DictConfig]:
    """A config for each of the named views, which differ in nothing else."""
    named = [word for word in words if word.startswith("views=")]
    others = [word for word in words if word not in named]
    names = named[-1].removeprefix("views=").split(",") if named else [chosen_option(words, "views")]
    return {name: compose_config([*others, f"views={name}"]) for name in names}


def _row(
    key: SampleKey,
    datamodules: Mapping[str, ImageTextDataModule],
    passes: Sequence[tuple[int, str]],
    config: DictConfig,
) -> SampleRow:
    mean, std = config.datamodule.get("mean", MEAN), config.datamodule.get("std", STD)
    views: dict[str, list[Tensor]] = {}
    told: dict[str, list[str]] = {}
    for name, datamodule in datamodules.items():
        dataset = datamodule.dataset
        samples = [dataset[replace(key, episode=episode, purpose=purpose)] for episode, purpose in passes]
        for view in dataset.image_views:
            views[f"{name}: {view}"] = [to_pixels(sample[view], mean=mean, std=std) for sample in samples]
        texts = {view: [_read(datamodule, sample[view]) for sample in samples] for view in dataset.text_views}
        texts |= {view: [f"{_boxes(sample[view])} boxes" for sample in samples] for view in dataset.region_views}
        told[name] = [f"{view}: {text}" for view, drawn in texts.items() for text in dict.fromkeys(drawn)]
    pair = next(iter(datamodules.values())).dataset.pair(key)
    return SampleRow(pair.picture, f"{pair.index}: {pair.caption}", views, _lines(told))


def _lines(told: Mapping[str, Sequence[str]]) -> list[str]:
    """What all named views tell, once; the names in front where they tell different things."""
    first, *others = told.values()
    if all(other == first for other in others):
        return [*first]
    return [f"{name}: {line}" for name, lines in told.items() for line in lines]


def _read(datamodule: ImageTextDataModule, ids: Tensor) -> str:
    """The text that a text tower reads."""
    assert isinstance(datamodule.tokenize, Tokenizer)
    return datamodule.tokenize.decode(ids)


def _boxes(regions: Tensor) -> int:
    return int((regions != 0).any(dim=1).sum())
