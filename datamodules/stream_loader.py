"""Batches of a stream: an episode is the next m pairs of its lanes, the same in both passes over it.

Position p of an episode is of lane p mod L. A lane's pairs are those of the fewest next ones that hold as many readable
ones as it has positions, so what cannot be read is skipped, and which pairs are in an episode does not depend on the
order in which they are tried. Extraction takes them as they come; training draws from a buffer, and learns each pair's
position from the extraction, by its *place* among all pairs that the lane tried.

Every worker makes its lanes' part of each batch; the parts are joined in the order of the slots of the batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from datamodules.datasets import EpisodeDataset
from datamodules.episodes import EpisodePlan, SampleKey
from datamodules.pictures import decode_picture
from datamodules.sources import CURSOR_WIDTH, Fault, LaneReader, PairStream, Picture, RawPair, Report, UnreadableSample
from datamodules.text_views import DrawnPair
from protoclip.seeds import derive_seed

Batch = dict[str, Tensor]
TIED = ("place", "position", "index", "checksum")
"""What ties the samples of the two passes over an episode together."""


@dataclass
class Part:
    """What one worker has of a batch; its last part has no samples, and says where its lanes stand."""

    batch: Batch
    slots: Tensor
    """Rows of the batch."""
    faults: list[Fault]
    cursors: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """One pass over an episode, as one process makes it.

    Attributes:
        purpose: ``train``, of whole batches, or ``extract``, of all positions.
        plan: of the episodes.
        batch_size: of this process.
        rank: this process; it has the lanes with this remainder by the processes.
        world: number of processes.
    """

    purpose: str
    plan: EpisodePlan
    batch_size: int
    rank: int
    world: int

    @property
    def slots(self) -> int:
        """Samples of this process."""
        if self.purpose == "train":
            return self.plan.size // (self.batch_size * self.world) * self.batch_size
        return (self.plan.size - self.rank + self.world - 1) // self.world

    @property
    def batches(self) -> int:
        """Batches of this process."""
        return -(-self.slots // self.batch_size)

    def lane(self, slot: int, lanes: int) -> int:
        """The lane of a slot of this process."""
        return (slot * self.world + self.rank) % lanes


def check_lanes(lanes: int, world: int, workers: int) -> None:
    """Refuse more processes and workers than lanes, and processes that would have more lanes than others.

    Raises:
        ValueError: with the number to set.
    """
    if lanes % world:
        raise ValueError(
            f"{lanes} lanes cannot be shared by {world} processes: set data.train.lanes to a multiple of {world}"
        )
    if lanes // world < workers:
        raise ValueError(
            f"{lanes} lanes are too few for {world} x {workers} workers: set num_workers={lanes // world}, or "
            f"data.train.lanes={world * workers} with as many shards"
        )


class StreamParts(IterableDataset[Part]):
    """A worker's parts of one pass.

    Args:
        stream: the corpus.
        dataset: that makes samples of pairs.
        of: the pass.

    Attributes:
        start: episode, and cursors [lanes, sources, 4] of its block's beginning, which workers see when it changes.
    """

    def __init__(self, stream: PairStream, dataset: EpisodeDataset, of: Pass) -> None:
        self.stream = stream
        self.dataset = dataset
        self.of = of
        self.start = torch.zeros(1 + stream.lanes * stream.sources * CURSOR_WIDTH, dtype=torch.int64)
        self.start.share_memory_()  # type: ignore[no-untyped-call]

    def begin(self, episode: int, cursors: Tensor) -> None:
        """Set what the next iteration reads."""
        self.start[0] = episode
        self.start[1:] = cursors.flatten()

    def __iter__(self) -> Iterator[Part]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        own = range(self.of.rank, self.stream.lanes, self.of.world)[worker::workers]
        episode, cursors = int(self.start[0]), self.start[1:].view(self.stream.lanes, self.stream.sources, CURSOR_WIDTH)
        faults: list[Fault] = []
        lanes = {lane: _Lane(self, lane, episode, cursors[lane].numpy(), faults.append) for lane in own}
        for first in range(0, self.of.slots, self.of.batch_size):
            last = min(first + self.of.batch_size, self.of.slots)
            slots = [slot for slot in range(first, last) if self.of.lane(slot, self.stream.lanes) in lanes]
            samples = [lanes[self.of.lane(slot, self.stream.lanes)].sample() for slot in slots]
            part = Part(default_collate(samples) if samples else {}, torch.tensor(slots) - first, [*faults])
            faults.clear()
            yield part
        ends = {lane: torch.from_numpy(reader.finish()) for lane, reader in lanes.items()}
        yield Part({}, torch.empty(0, dtype=torch.int64), faults, ends)


class _Lane:
    """The pairs of one lane in one pass over an episode."""

    def __init__(self, parts: StreamParts, lane: int, episode: int, cursor: np.ndarray, report: Report) -> None:
        plan, stream = parts.of.plan, parts.stream
        self._lane, self._lanes, self._report = lane, stream.lanes, report
        self._episode, self._block, self._purpose = episode, plan.block(episode), parts.of.purpose
        self._dataset = parts.dataset
        self._reader: LaneReader = stream.reader(lane, cursor, plan.seed, report)
        self._left = (plan.size - lane + stream.lanes - 1) // stream.lanes
        self._share = self._left
        self._bad = 0
        self._tried = 0
        self._given = 0
        self._held = 1 if parts.of.purpose == "extract" else stream.shuffle
        self._buffer: list[tuple[RawPair, int]] = []
        self._generator = np.random.default_rng(derive_seed(plan.seed, "shuffle", episode, lane))

    def sample(self) -> dict[str, Any]:
        """The next readable pair as a sample."""
        raw, picture, place = self._next()
        key = SampleKey(raw.index, place, self._episode, self._block, self._purpose)
        number = self._dataset.caption_number(key, len(raw.captions))
        made = self._dataset.sample(DrawnPair(raw.index, picture, raw.captions, number, raw.captions[number]), key)
        position = self._lane + self._lanes * self._given
        self._given += 1
        return made | {"position": position, "place": place, "checksum": raw.checksum}

    def finish(self) -> np.ndarray:
        """Where the lane stands when all of the episode is read, of which training leaves a rest out."""
        while self._left:
            self._next()
        return self._reader.cursor

    def _next(self) -> tuple[RawPair, Picture, int]:
        """A pair, its picture and its place."""
        while True:
            while len(self._buffer) < min(self._held, self._left):
                self._buffer.append((self._reader.read(), self._lane + self._lanes * self._tried))
                self._tried += 1
            drawn = int(self._generator.integers(len(self._buffer))) if self._held > 1 else 0
            self._buffer[drawn], self._buffer[-1] = self._buffer[-1], self._buffer[drawn]
            raw, place = self._buffer.pop()
            try:
                picture = decode_picture(raw.picture, raw.key)
            except UnreadableSample as error:
                self._report(Fault(error.kind, raw.key, str(error)))
                self._bad += 1
                if self._bad > self._share:
                    raise ValueError(
                        f"more pairs of lane {self._lane} are broken than whole, such as {error}"
                    ) from error
                continue
            self._left -= 1
            return raw, picture, place


class Ties:
    """The positions of a block's pairs by their places, as the extraction found them.

    Args:
        block: of episodes.
        facts: of every sample, by name [pairs].
    """

    def __init__(self, block: int, facts: Batch) -> None:
        order = facts["place"].argsort()
        self.block = block
        self.facts = {name: facts[name][order] for name in TIED}

    def positions(self, batch: Batch) -> Tensor:
        """The positions of a batch's pairs.

        Raises:
            ValueError: the extraction found another pair in a place, or none.
        """
        rows = torch.searchsorted(self.facts["place"], batch["place"]).clamp_max(len(self.facts["place"]) - 1)
        same = torch.stack([self.facts[name][rows] == batch[name] for name in TIED if name != "position"]).all(dim=0)
        if not bool(same.all()):
            place = int(batch["place"][~same][0])
            raise ValueError(
                f"pair {place} of episode {int(batch['episode'][0])} is not the one that prototypes are of: a shard "
                "changed between the two passes over the episode; start the same command again"
            )
        return self.facts["position"][rows]


class StreamLoader:
    """Batches of one pass after the other; Lightning takes it for a loader with a sampler.

    Args:
        parts: what workers make.
        episode: the first one.
        begin: gives the cursors at the beginning of an episode's block.
        see: is told the faults of each batch.
        finish: takes the pass, its episode, where this process' lanes stand at the end, and of an extraction what ties
            its samples; all processes call it at the same point.
        options: of the DataLoader; whole batches are pinned.
    """

    def __init__(
        self,
        parts: StreamParts,
        *,
        episode: int,
        begin: Callable[[int], Tensor],
        see: Callable[[list[Fault]], None],
        finish: Callable[[Pass, int, dict[int, Tensor], Batch], None],
        **options: Any,
    ) -> None:
        self.parts = parts
        self.episode = episode
        self.sampler = self
        self._begin = begin
        self._see = see
        self._finish = finish
        self._workers = max(1, options["num_workers"])
        self._pinned = options.pop("pin_memory")
        self._loader = DataLoader(parts, batch_size=None, collate_fn=None, **options)

    def set_epoch(self, epoch: int) -> None:
        """Go to an episode; takes effect at the next iteration."""
        self.episode = epoch

    def __len__(self) -> int:
        return self.parts.of.batches

    def __iter__(self) -> Iterator[Batch]:
        episode, trains = self.episode, self.parts.of.purpose == "train"
        self.parts.begin(episode, self._begin(episode))
        made = iter(self._loader)
        seen: list[Batch] = []
        for number in range(1, len(self) + 1):
            parts = [next(made) for _ in range(self._workers)]
            batch = _joined(parts, pinned=self._pinned)
            self._see([fault for part in parts for fault in part.faults])
            if trains and number == len(self):  # the trainer does not ask behind the last batch
                self._end(episode, made, {})
            elif not trains:
                seen.append({name: batch[name] for name in TIED})
            yield batch
        if not trains:  # of which a process may have a batch more than others
            self._end(episode, made, {name: torch.cat([facts[name] for facts in seen]) for name in TIED})

    def _end(self, episode: int, made: Iterator[Part], facts: Batch) -> None:
        """Take the last parts of the workers, and hand on where the lanes stand."""
        parts = [next(made) for _ in range(self._workers)]
        self._see([fault for part in parts for fault in part.faults])
        stand = {lane: cursor for part in parts for lane, cursor in part.cursors.items()}
        self._finish(self.parts.of, episode, stand, facts)


def _joined(parts: list[Part], *, pinned: bool) -> Batch:
    """One batch of its parts, in the order of the slots."""
    filled = [part for part in parts if len(part.slots)]
    batch: Batch = {}
    for name in filled[0].batch:
        pieces = [part.batch[name] for part in filled]
        shape = (sum(map(len, pieces)), *pieces[0].shape[1:])
        whole = torch.empty(shape, dtype=pieces[0].dtype, pin_memory=pinned)
        for part, piece in zip(filled, pieces, strict=True):
            whole[part.slots] = piece
        batch[name] = whole
    return batch
