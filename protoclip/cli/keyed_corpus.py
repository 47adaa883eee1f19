"""The pairs of a corpus or of a stream, once, in order and with their keys: what caches are made of."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeAlias, cast

from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.fault_tally import SHARD_FAULTS, one_line
from datamodules.pictures import decode_picture
from datamodules.sources import Corpus, Fault, PairSource, PairStream, Picture, UnreadableSample
from protoclip.caches import Numbered, Sample, key_number
from protoclip.cli.corpus import as_it_is, corpus_samples

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusPair:
    """A pair whose parts are read when they are asked for; each may be an UnreadableSample."""

    captions: Callable[[], Sequence[str]]
    image: Callable[[], Picture]


Make: TypeAlias = Callable[[CorpusPair], Sample]


def keyed_samples(
    source: Corpus, make: Make, title: str, workers: int, console: Console
) -> Callable[[int], Iterable[Numbered]]:
    """The corpus from a pair on, once, in order, with its keys; arguments as of ``corpus_samples``."""
    if isinstance(source, PairSource):
        made = corpus_samples(source, partial(_keyed, make), title, workers, console)
        return cast("Callable[[int], Iterable[Numbered]]", made)

    def samples(start: int) -> Iterable[Numbered]:
        assert isinstance(source, PairStream)
        dataset = _StreamSamples(source, make, start)
        loader: Iterable[Any] = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=as_it_is)
        hidden = not console.is_terminal
        return track(loader, title, total=None, completed=start, console=console, transient=True, disable=hidden)

    return samples


class _StreamSamples(IterableDataset[Numbered]):
    """Samples of a stream; every worker reads it all, and makes its share."""

    def __init__(self, stream: PairStream, make: Make, start: int) -> None:
        self.stream = stream
        self.make = make
        self.start = start

    def __iter__(self) -> Iterator[Numbered]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)

        def report(fault: Fault) -> None:
            if fault.kind in SHARD_FAULTS:  # it may be there again in training
                raise ValueError(f"{one_line(fault)}; a cache needs every shard whole")
            if worker == 0:
                logger.warning("%s is left out: %s", fault.place, fault.reason)

        for raw in islice(self.stream.every(report), self.start + worker, None, workers):
            pair = CorpusPair(partial(list, raw.captions), partial(decode_picture, raw.picture, raw.key))
            yield raw.index, _readable(self.make, pair)


def _keyed(make: Make, source: PairSource, index: int) -> Numbered:
    pair = CorpusPair(partial(source.captions, index), partial(source.image, index))
    return key_number(source.key(index)), _readable(make, pair)


def _readable(make: Make, pair: CorpusPair) -> Sample:
    try:
        return make(pair)
    except UnreadableSample:
        return None


def corpus_size(source: Corpus) -> int | None:
    """Pairs of a corpus; None of a stream, whose end tells."""
    return len(source) if isinstance(source, PairSource) else None
