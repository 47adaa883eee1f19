"""What the commands share that go through a corpus once: parts of a config, and the pairs in order."""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from datamodules.sources import Corpus, PairSource, UnreadableSample
from protoclip.caches import Sample
from protoclip.cli.explain import explain
from protoclip.cli.translate import translate, translated
from protoclip.instantiate import SettingsError, instantiate

T = TypeVar("T")
Prepare: TypeAlias = Callable[[PairSource, int], Sample]


@dataclass
class _Corpus:
    """The part of ``data`` that holds it."""

    train: Corpus


class _Samples(Dataset[Sample]):
    """What is made of each pair of a corpus, None where it cannot be read."""

    def __init__(self, source: PairSource, prepare: Prepare) -> None:
        self.source = source
        self.prepare = prepare

    def __getitem__(self, index: int) -> Sample:
        try:
            return self.prepare(self.source, index)
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


def training_corpus(config: DictConfig) -> Corpus:
    """The corpus that a config trains on; errors as of ``built``."""
    return built(_Corpus, {"train": translate(config)["data"]["train"]}, "data", config).train


def training_pairs(config: DictConfig) -> PairSource:
    """The corpus that a config trains on, which must not be a stream; errors as of ``built``."""
    return with_places(training_corpus(config))


def with_places(corpus: Corpus) -> PairSource:
    """A corpus whose pairs can be looked up; a ValueError where it is a stream."""
    if not isinstance(corpus, PairSource):
        raise ValueError("a stream's pairs have no places: choose data=shards with the same data.path, on the disk")
    return corpus


def corpus_samples(
    source: PairSource,
    prepare: Prepare,
    title: str,
    workers: int,
    console: Console,
    *,
    pairs: Sequence[int] | None = None,
) -> Callable[[int], Iterable[Sample]]:
    """The corpus from a pair on, in order, under a progress bar.

    Args:
        source: the corpus.
        prepare: what a worker makes of a pair; an UnreadableSample becomes None.
        title: of the bar, which is on a terminal only.
        workers: processes that prepare.
        console: where the bar is.
        pairs: those to take, all by default.
    """
    chosen = range(len(source)) if pairs is None else pairs

    def samples(start: int) -> Iterable[Sample]:
        loader = DataLoader(
            _Samples(source, prepare),
            sampler=chosen[start:],
            batch_size=None,
            num_workers=workers,
            collate_fn=as_it_is,
        )
        hidden = not console.is_terminal
        return track(loader, title, total=len(chosen), completed=start, console=console, transient=True, disable=hidden)

    return samples


def drawn(total: int, size: int, seed: int, option: str) -> Sequence[int]:
    """A part of a corpus: so many of its pairs, in their order.

    Args:
        total: pairs of the corpus.
        size: pairs to draw; all where there are no more.
        seed: of the draw, which hangs on nothing else than these three.
        option: that the size comes from, for the error.

    Raises:
        ValueError: the size is below 1.
    """
    if size < 1:
        raise ValueError(f"{option} {size} is nothing to read: give 1 or more")
    if size >= total:
        return range(total)
    found = np.random.default_rng(seed).choice(total, size, replace=False, shuffle=False)
    return packed(np.sort(found))


def packed(numbers: NDArray[np.int64]) -> Sequence[int]:
    """Numbers of pairs as Python's integers, at 8 bytes each."""
    return array("q", numbers.astype(np.int64).tobytes())


def as_it_is(sample: Any) -> Any:
    """What a worker made, not collated."""
    return sample
