"""``protoclip teacher``: the features of the chosen teachers for the corpus, encoded once and kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from datamodules.sources import PairSource, UnreadableSample
from protoclip.cli.compose import compose_config
from protoclip.cli.explain import explain
from protoclip.cli.translate import translate
from protoclip.instantiate import SettingsError, instantiate
from protoclip.ranges import PositiveInt
from protoclip.teachers import Encoder, TeacherCache
from protoclip.teachers.encode import Sample, encode_corpus

T = TypeVar("T")


@dataclass
class Parts:
    """The parts of ``data`` that encoding needs.

    Attributes:
        train: the corpus.
        teachers: caches by name.
    """

    train: PairSource
    teachers: dict[str, TeacherCache]


@dataclass
class Settings:
    """What ``teacher`` says about encoding.

    Attributes:
        batch_size: captions or pictures that are encoded at once.
    """

    batch_size: PositiveInt


class Samples(Dataset[Sample]):
    """The captions, or the picture, of each pair of a corpus, prepared for a teacher.

    Args:
        source: the corpus.
        encoder: of the teacher.
    """

    def __init__(self, source: PairSource, encoder: Encoder) -> None:
        self.source = source
        self.encoder = encoder

    def __getitem__(self, index: int) -> Sample:
        try:
            items = self.source.captions(index) if self.encoder.kind == "text" else [self.source.image(index)]
        except UnreadableSample:
            return None
        return [self.encoder.prepare(item) for item in items]


def make_caches(words: Sequence[str]) -> None:
    """Encode the corpus by each teacher of a config; what is finished is left, what was interrupted goes on.

    Args:
        words: Hydra's, such as ``data=scenes teacher=minilm``.

    Raises:
        ValueError: no teacher is chosen, or one cannot be built or written.
    """
    config = compose_config(words)
    if not config.teachers:
        raise ValueError("no teacher is chosen: add teacher=minilm, or several as teacher=[minilm,clip_text]")
    data = translate(config)["data"]
    parts = _built(Parts, {name: data[name] for name in ("train", "teachers")}, "data", config)
    settings = _built(Settings, {"batch_size": config.teacher.batch_size}, "teacher", config)
    for cache in parts.teachers.values():
        _make_cache(cache, parts.train, settings.batch_size, config.num_workers)


def _built(cls: type[T], settings: dict[str, Any], key: str, config: DictConfig) -> T:
    try:
        return instantiate(cls, settings, key)
    except SettingsError as error:
        raise ValueError(explain(str(error), config)) from error


def _make_cache(cache: TeacherCache, source: PairSource, batch_size: int, workers: int) -> None:
    console = Console()

    def samples(start: int) -> Iterable[Sample]:
        pairs = range(start, len(source))
        loader = DataLoader(
            Samples(source, cache.encoder), sampler=pairs, batch_size=None, num_workers=workers, collate_fn=_as_it_is
        )
        title = f"encoding by {cache.name}"
        hidden = not console.is_terminal
        return track(loader, title, total=len(source), completed=start, console=console, transient=True, disable=hidden)

    encoded = encode_corpus(cache, samples, corpus=source.fingerprint, pairs=len(source), batch_size=batch_size)
    facts = cache.facts
    if not encoded:
        console.print(f"{cache.folder} is finished: nothing to do", soft_wrap=True)
        return
    console.print(
        f"{cache.folder}: {facts['rows']} rows of {facts['pairs']} pairs, {facts['unreadable']} of them unreadable; "
        f"{facts['dim']} of {facts['raw_dim']} dimensions, {facts['explained_variance']:.0%} of the variance",
        soft_wrap=True,
    )


def _as_it_is(sample: Sample) -> Sample:
    return sample
