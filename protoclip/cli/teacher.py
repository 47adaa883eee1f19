"""``protoclip teacher``: the features of the chosen teachers for the corpus, encoded once and kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from datamodules.sources import PairSource, UnreadableSample
from protoclip.cli.compose import compose_config
from protoclip.cli.explain import explain
from protoclip.cli.translate import translate, translated
from protoclip.instantiate import SettingsError, instantiate
from protoclip.ranges import PositiveInt
from protoclip.teachers import Encoder, TeacherCache
from protoclip.teachers.encode import Sample, encode_corpus
from protoclip.teachers.encoders import Kind

T = TypeVar("T")


@dataclass
class Corpus:
    """What a teacher encodes: ``data.train``."""

    train: PairSource


@dataclass
class Teacher:
    """An entry of ``teachers``; see ``TeacherCache``.

    Attributes:
        name: of the teacher.
        folder: of its cache.
        encoder: the model.
        dims: after PCA, or None.
        batch_size: captions or pictures that are encoded at once.
    """

    name: str
    folder: str
    encoder: Encoder
    dims: PositiveInt | None = None
    batch_size: PositiveInt = 64


class Samples(Dataset[Sample]):
    """The captions, or the picture, of each pair of a corpus.

    Args:
        source: the corpus.
        kind: which of them.
    """

    def __init__(self, source: PairSource, kind: Kind) -> None:
        self.source = source
        self.kind = kind

    def __getitem__(self, index: int) -> Sample:
        try:
            return list(self.source.captions(index)) if self.kind == "text" else [self.source.image(index)]
        except UnreadableSample:
            return None


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
    entries = OmegaConf.to_container(config.teachers, resolve=True)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError("teachers holds one dict for each teacher: see conf/teacher, or choose one as teacher=minilm")
    teachers = [_built(Teacher, translated(entry), f"teachers.{key!s}", config) for key, entry in entries.items()]
    source = _built(Corpus, {"train": translate(config)["data"]["train"]}, "data", config).train
    for teacher in teachers:
        _make_cache(teacher, source, config.num_workers)


def _built(cls: type[T], settings: dict[str, Any], key: str, config: DictConfig) -> T:
    try:
        return instantiate(cls, settings, key)
    except SettingsError as error:
        raise ValueError(explain(str(error), config)) from error


def _make_cache(teacher: Teacher, source: PairSource, workers: int) -> None:
    console = Console()
    cache = TeacherCache(teacher.folder, name=teacher.name, encoder=teacher.encoder, dims=teacher.dims)

    def samples(start: int) -> Iterable[Sample]:
        pairs = range(start, len(source))
        loader = DataLoader(
            Samples(source, cache.kind), sampler=pairs, batch_size=None, num_workers=workers, collate_fn=_as_it_is
        )
        title = f"encoding by {teacher.name}"
        hidden = not console.is_terminal
        return track(loader, title, len(source), start, console=console, transient=True, disable=hidden)

    encoded = encode_corpus(cache, samples, corpus=source.fingerprint, pairs=len(source), batch_size=teacher.batch_size)
    facts = cache.facts
    if not encoded:
        console.print(f"{teacher.folder} is finished: nothing to do", soft_wrap=True)
        return
    console.print(
        f"{teacher.folder}: {facts['rows']} rows of {facts['pairs']} pairs, {facts['unreadable']} of them unreadable; "
        f"{facts['dim']} of {facts['raw_dim']} dimensions, {facts['explained_variance']:.0%} of the variance",
        soft_wrap=True,
    )


def _as_it_is(sample: Sample) -> Sample:
    return sample
