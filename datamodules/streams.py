"""Pairs of WebDataset shards, read forwards only and without end: from the local disk, a pipe, or any fsspec URL.

In each pass over the shards, a permutation that the seed draws deals them out to the lanes, and each lane reads its
shards one after the other, then those of the next pass.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from aiohttp import ClientError

from datamodules.shards import IMAGE_KEYS, read_captions
from datamodules.sources import Cursor, Fault, LaneReader, PairStream, RawPair, Report, UnreadableSample
from datamodules.tars import TarSample, printable, tar_samples
from datamodules.urls import open_shard, shard_name, shard_urls
from protoclip.ranges import PositiveFloat, PositiveInt
from protoclip.seeds import derive_seed


class ShardStream(PairStream):
    """A stream of the shards that :class:`~datamodules.shards.ShardPairs` reads by index.

    Args:
        shards: paths, globs, brace patterns, ``pipe:`` commands or URLs that fsspec opens, one or several; ``.tar`` or
            ``.tar.gz``.
        lanes: files that are read at the same time, over all processes.
        shuffle: pairs of each lane that training draws from at random, held as they lie in the shards.
        image_keys: extensions of pictures; the first that a sample has is used.
        caption_keys: extensions of captions, ``txt`` or ``json:FIELD``; the first that a sample has is used.

    Raises:
        ValueError: no shards, fewer than lanes, or two of one name.
    """

    sources = 1

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        lanes: PositiveInt = 8,
        shuffle: PositiveInt = 256,
        image_keys: Sequence[str] = IMAGE_KEYS,
        caption_keys: Sequence[str] = ("txt",),
    ) -> None:
        self.urls = shard_urls(shards)
        self.shards = len(self.urls)
        names = Counter(map(shard_name, self.urls))
        if (twice := names.most_common(1)[0])[1] > 1:
            raise ValueError(
                f"{twice[1]} shards are called {twice[0]}, and their pairs alike: rename them, or mix them"
            )
        if len(self.urls) < lanes:
            raise ValueError(
                f"{len(self.urls)} shards cannot be dealt out to {lanes} lanes: set data.train.lanes={len(self.urls)} "
                "or less, or write smaller shards by protoclip data convert"
            )
        self.lanes = lanes
        self.shuffle = shuffle
        self.image_keys = list(image_keys)
        self.caption_keys = list(caption_keys)
        self._wanted = {key.partition(":")[0] for key in (*image_keys, *caption_keys)}
        described = [[shard_name(url) for url in self.urls], lanes, shuffle, self.image_keys, self.caption_keys]
        self.fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def reader(self, lane: int, cursor: Cursor, seed: int, report: Report) -> LaneReader:  # noqa: D102
        return _ShardReader(self, lane, cursor, seed, report)

    def every(self, report: Report) -> Iterator[RawPair]:  # noqa: D102
        for url in self.urls:
            for _, pair in self.read(url, report):
                yield pair

    def read(self, url: str, report: Report, first: int = 0) -> Iterator[tuple[int, RawPair]]:
        """The pairs of a shard.

        Args:
            url: of the shard.
            report: is told what cannot be used from the first sample on.
            first: sample to begin with.

        Yields:
            Samples up to the pair and with it, and the pair.
        """
        name = shard_name(url)
        number = 0

        def tell(fault: Fault) -> None:  # what lies before the first sample was told to whoever read it
            if number >= first:
                report(fault)

        try:
            with open_shard(url) as file:
                for sample in tar_samples(file, name, wanted=self._wanted, report=tell):
                    number += 1
                    if number <= first:
                        continue
                    called = f"{name}: {printable(sample.key)}"
                    try:
                        yield number, self._pair(sample, called)
                    except UnreadableSample as error:
                        tell(Fault(error.kind, called, str(error)))
        except FileNotFoundError as error:
            tell(Fault("missing_shard", name, f"{url} is not there ({error.strerror}): bring it back"))
        except (OSError, ClientError) as error:
            reason = " ".join(str(error).split())
            tell(Fault("damaged_shard", name, f"{url} cannot be read ({reason}): fetch it again"))

    def _pair(self, sample: TarSample, name: str) -> RawPair:
        pictures = [sample.data[key] for key in self.image_keys if sample.data.get(key)]
        if not pictures:
            raise UnreadableSample(f"{name} has no picture: add it or remove the sample", "missing_part")
        for key in self.caption_keys:
            extension, _, field = key.partition(":")
            if sample.data.get(extension):
                return RawPair(name, pictures[0], read_captions(sample.data[extension], field, name))
        raise UnreadableSample(f"{name} has no caption: add it or remove the sample", "missing_part")


class _ShardReader(LaneReader):
    def __init__(self, stream: ShardStream, lane: int, cursor: Cursor, seed: int, report: Report) -> None:
        self.cursor = cursor.copy()
        self._stream = stream
        self._lane = lane
        self._seed = seed
        self._report = report
        self._pairs = self._read()

    def read(self) -> RawPair:
        pair = next(self._pairs)
        self.cursor[0, 3] += 1
        return pair

    def _read(self) -> Iterator[RawPair]:
        stream, place = self._stream, self.cursor[0]
        barren = 0
        while True:
            generator = np.random.default_rng(derive_seed(self._seed, "shards", int(place[0])))
            order = generator.permutation(len(stream.urls))[self._lane :: stream.lanes]
            for shard in order[place[1] :]:
                given, begun = place[3], place[2]
                for number, pair in stream.read(stream.urls[shard], self._report, int(place[2])):
                    place[2] = number
                    yield pair
                barren = 0 if place[3] > given else barren + int(begun == 0)
                place[1:3] = place[1] + 1, 0
            if barren >= len(stream.urls):
                raise ValueError(f"no pair of {barren} shards could be read, such as {stream.urls[order[0]]}")
            place[:3] = place[0] + 1, 0, 0


class MixedStreams(PairStream):
    """Several streams in fixed shares: each lane reads a lane of every one of them.

    Args:
        streams: by name; of equally many lanes.
        weights: share of each stream's pairs, in any unit; None: equal shares.

    Raises:
        ValueError: no stream, other weights than streams, or streams of different lanes.
    """

    def __init__(self, streams: Mapping[str, PairStream], weights: Mapping[str, PositiveFloat] | None = None) -> None:
        if not streams:
            raise ValueError("a mix of no stream: name one or more in data.streams")
        self.streams = dict(streams)
        weights = dict.fromkeys(streams, 1.0) if weights is None else dict(weights)
        if weights.keys() != streams.keys():
            raise ValueError(f"weights of {', '.join(weights)} for {', '.join(streams)}: give one for each stream")
        lanes = {stream.lanes for stream in streams.values()}
        if len(lanes) > 1:
            raise ValueError(f"streams of {sorted(lanes)} lanes cannot be mixed: give them all the same number")
        self.lanes = lanes.pop()
        self.sources = sum(stream.sources for stream in streams.values())
        self.shards = sum(stream.shards for stream in streams.values())
        self.shuffle = sum(stream.shuffle for stream in streams.values())
        self.shares = {name: weights[name] / sum(weights.values()) for name in streams}
        described = {name: [stream.fingerprint, self.shares[name]] for name, stream in streams.items()}
        self.fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def reader(self, lane: int, cursor: Cursor, seed: int, report: Report) -> LaneReader:  # noqa: D102
        return _MixedReader(self, lane, cursor, seed, report)

    def every(self, report: Report) -> Iterator[RawPair]:  # noqa: D102
        for name, stream in self.streams.items():
            for pair in stream.every(report):
                yield RawPair(f"{name}:{pair.key}", pair.picture, pair.captions)


class _MixedReader(LaneReader):
    def __init__(self, mix: MixedStreams, lane: int, cursor: Cursor, seed: int, report: Report) -> None:
        self.cursor = cursor.copy()
        self._shares = mix.shares
        self._readers: dict[str, LaneReader] = {}
        self._rows: dict[str, slice] = {}
        start = 0
        for name, stream in mix.streams.items():
            rows = self._rows[name] = slice(start, start + stream.sources)
            self._readers[name] = stream.reader(lane, cursor[rows], derive_seed(seed, "mix", name), report)
            start += stream.sources

    def read(self) -> RawPair:
        given = {name: int(self.cursor[rows, 3].sum()) for name, rows in self._rows.items()}
        due = sum(given.values()) + 1
        name = max(given, key=lambda other: self._shares[other] * due - given[other])
        pair = self._readers[name].read()
        self.cursor[self._rows[name]] = self._readers[name].cursor
        return RawPair(f"{name}:{pair.key}", pair.picture, pair.captions)
