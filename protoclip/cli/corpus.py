"""What the commands share that go through a corpus once: parts of a config, and the pairs in order."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from datamodules.pictures import decode_picture
from datamodules.sources import Corpus, Fault, PairSource, PairStream, Picture, UnreadableSample
from protoclip.caches import Numbered, Sample, key_number
from protoclip.cli.explain import explain
from protoclip.cli.translate import translate, translated
from protoclip.instantiate import SettingsError, instantiate

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusPair:
    """A pair whose parts are read when they are asked for; each may be an UnreadableSample."""

    captions: Callable[[], Sequence[str]]
    image: Callable[[], Picture]


Prepare: TypeAlias = Callable[[CorpusPair], Sample]


@dataclass
class _Corpus:
    """The part of ``data`` that holds it."""

    train: Corpus


class _Samples(Dataset[Numbered]):
    """What is made of each pair of a corpus, None where it cannot be read."""

    def __init__(self, source: PairSource, prepare: Prepare) -> None:
        self.source = source
        self.prepare = prepare

    def __getitem__(self, index: int) -> Numbered:
        pair = CorpusPair(partial(self.source.captions, index), partial(self.source.image, index))
        return key_number(self.source.key(index)), _prepared(self.prepare, pair)


class _StreamSamples(IterableDataset[Numbered]):
    """The same of a stream; every worker reads it all, and prepares its share."""

    def __init__(self, stream: PairStream, prepare: Prepare, start: int) -> None:
        self.stream = stream
        self.prepare = prepare
        self.start = start

    def __iter__(self) -> Iterator[Numbered]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)

        def report(fault: Fault) -> None:
            if worker == 0:
                logger.warning("%s is left out: %s", fault.place, fault.reason)

        for raw in islice(self.stream.every(report), self.start + worker, None, workers):
            pair = CorpusPair(partial(list, raw.captions), partial(decode_picture, raw.picture, raw.key))
            yield raw.index, _prepared(self.prepare, pair)


def _prepared(prepare: Prepare, pair: CorpusPair) -> Sample:
    try:
        return prepare(pair)
    except UnreadableSample:
        return None


def built(cls: type[T], settings: Mapping[str, Any], key: str, config: DictConfig) -> T:
    """Make a part of a config.

    Args:
        cls: the part.
        settings: its arguments, translated.
        key: of its section.
        config: composed by Hydra, not resolved, that they come from.

    Raises:
        ValueError: in one line, with the option's name.
    """
    try:
        return instantiate(cls, settings, key)
    except SettingsError as error:
        raise ValueError(explain(str(error), config)) from error


def section(cls: type[T], key: str, config: DictConfig) -> T:
    """Make what a whole section of a config says; arguments and errors as of ``built``."""
    plain = OmegaConf.to_container(config[key], resolve=True)
    return built(cls, translated(plain), key, config)


def training_pairs(config: DictConfig) -> Corpus:
    """The corpus that a config trains on; errors as of ``built``."""
    return built(_Corpus, {"train": translate(config)["data"]["train"]}, "data", config).train


def corpus_samples(
    source: Corpus, prepare: Prepare, title: str, workers: int, console: Console
) -> Callable[[int], Iterable[Numbered]]:
    """The corpus from a pair on, in order, under a progress bar.

    Args:
        source: the corpus.
        prepare: what a worker makes of a pair; an UnreadableSample becomes None.
        title: of the bar, which is on a terminal only.
        workers: processes that prepare.
        console: where the bar is.
    """

    def samples(start: int) -> Iterable[Numbered]:
        dataset: Dataset[Numbered]
        if isinstance(source, PairStream):
            dataset, places = _StreamSamples(source, prepare, start), None
        else:
            dataset, places = _Samples(source, prepare), range(start, len(source))
        loader: Iterable[Any] = DataLoader(
            dataset, sampler=places, batch_size=None, num_workers=workers, collate_fn=_as_it_is
        )
        return track(
            loader,
            title,
            total=corpus_size(source),
            completed=start,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    return samples


def corpus_size(source: Corpus) -> int | None:
    """Pairs of a corpus; None of a stream, whose end tells."""
    return None if isinstance(source, PairStream) else len(source)


def _as_it_is(sample: Any) -> Any:
    return sample
