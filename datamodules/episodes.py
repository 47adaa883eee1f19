"""Episodes: which pairs of the corpus are trained on when, as a pure function of (seed, episode).

An episode is m pairs drawn from the corpus, and one Lightning epoch. ``refresh_every`` episodes in a row form a block:
they share their pairs and captions, and so their prototype labels, which are kept by position in the episode.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch.utils.data import Sampler

from protoclip.ranges import PositiveInt
from protoclip.seeds import derive_seed

DRAWS = ("independent", "partition")


@dataclass(frozen=True, slots=True)
class SampleKey:
    """All that a sample depends on; it travels from the sampler to the workers in place of a bare index."""

    index: int
    """Place in the corpus."""
    position: int
    """Place in the episode."""
    episode: int
    block: int
    purpose: str
    """``train`` or ``extract``: the two passes see the same pair and caption, and draw different augmentations."""


class EpisodePlan:
    """The pairs of every episode.

    Args:
        corpus_size: pairs M of the corpus; None for a stream, whose pairs come in its own order.
        size: pairs m of an episode.
        seed: of every draw.
        refresh_every: episodes of a block.
        replacement: draw with replacement inside an episode, as ProtoCLIP's code does.
        draw: ``independent`` draws each block anew (the paper); ``partition`` cuts a permutation of the corpus into
            blocks, a new permutation for each pass; what does not fill a block is left out of that pass.
        strata: sizes and weights of the corpus' parts, in its order; each block has so many pairs of each part, drawn
            as from a corpus of its own, with passes of its own. None: the corpus is one part.

    Attributes:
        counts: pairs of each part in a block.

    Raises:
        ValueError: sizes or options that do not fit together.
    """

    def __init__(
        self,
        corpus_size: int | None,
        size: PositiveInt,
        seed: int = 0,
        refresh_every: PositiveInt = 1,
        replacement: bool = False,
        draw: Literal["independent", "partition"] = "independent",
        strata: Sequence[tuple[int, float]] | None = None,
    ) -> None:
        if draw not in DRAWS:
            raise ValueError(f"episode.draw is one of {', '.join(DRAWS)}, not {draw!r}")
        if size < 1 or refresh_every < 1:
            raise ValueError("episode.size and episode.refresh_every are 1 or more")
        if corpus_size is None and (replacement or draw == "partition"):
            raise ValueError("a stream is not drawn from: set episode.replacement=false and episode.draw=independent")
        if corpus_size is not None and size > corpus_size and not replacement:
            raise ValueError(
                f"an episode of {size} pairs from a corpus of {corpus_size}: "
                f"set episode.size to {corpus_size} or less, or episode.replacement=true"
            )
        if replacement and draw == "partition":
            raise ValueError("episode.draw=partition draws without replacement: set episode.replacement=false")
        self.corpus_size = corpus_size
        self.size = size
        self.seed = seed
        self.refresh_every = refresh_every
        self.replacement = replacement
        self.draw = draw
        self.strata = None if strata is None else [(part, float(weight)) for part, weight in strata]
        self.counts = [size] if self.strata is None else self._shares(self.strata)
        self._permutations: dict[tuple[int, ...], tuple[int, np.ndarray]] = {}

    def _shares(self, strata: Sequence[tuple[int, float]]) -> list[int]:
        """Pairs of each part in a block: its share rounded down, and one more where most was rounded away."""
        assert sum(part for part, _ in strata) == self.corpus_size
        total = sum(weight for _, weight in strata)
        wanted = np.array([self.size * weight / total for _, weight in strata])
        counts = np.floor(wanted).astype(int)
        counts[np.argsort(counts - wanted, kind="stable")[: self.size - counts.sum()]] += 1
        shares: list[int] = counts.tolist()
        for number, (count, (part, weight)) in enumerate(zip(shares, strata, strict=True), start=1):
            told = f"an episode of {self.size} pairs takes {count} from source {number} of {len(strata)}"
            if count < 1:
                raise ValueError(f"{told}, of weight {weight:g}: raise its weight or episode.size, or leave it out")
            if count > part and not self.replacement:
                mend = "lower its weight or episode.size"
                raise ValueError(f"{told}, which has {part}: {mend}, or set episode.replacement=true")
        return shares

    def block(self, episode: int) -> int:
        """The block that an episode belongs to."""
        return episode // self.refresh_every

    def indices(self, block: int) -> np.ndarray:
        """Corpus indices of a block by position [size]; a stream has none."""
        assert self.corpus_size is not None
        if self.strata is None:
            return self._part(block, self.corpus_size, self.size)
        sizes = [part for part, _ in self.strata]
        starts = np.cumsum([0, *sizes])
        parts = [
            starts[number] + self._part(block, part, count, number)
            for number, (part, count) in enumerate(zip(sizes, self.counts, strict=True))
        ]
        mixed: np.ndarray = np.concatenate(parts)[self._generator("mix", block).permutation(self.size)]
        return mixed

    def _part(self, block: int, corpus_size: int, size: int, *part: int) -> np.ndarray:
        """Places in a part of the corpus, or in all of it, that a block has."""
        if self.draw == "independent":
            return self._generator("draw", block, *part).choice(corpus_size, size, replace=self.replacement)
        per_pass = corpus_size // size
        order = self._permutation(corpus_size, block // per_pass, *part)
        start = block % per_pass * size
        return order[start : start + size].copy()

    def _permutation(self, corpus_size: int, number: int, *part: int) -> np.ndarray:
        """The order of a pass; the last one is kept, or a block of any size would cost as much as the whole corpus."""
        kept, order = self._permutations.get(part, (None, None))
        if order is None or kept != number:
            order = self._generator("partition", number, *part).permutation(corpus_size)
            self._permutations[part] = number, order
        return order

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the permutations, which are as large as the corpus."""
        return {**self.__dict__, "_permutations": {}}

    def order(self, episode: int) -> np.ndarray:
        """Positions in the order in which an episode trains on them [size]."""
        return self._generator("order", episode).permutation(self.size)

    def _generator(self, purpose: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, purpose, *numbers))


class EpisodeSampler(Sampler[SampleKey]):
    """The samples of one episode after the other.

    Lightning calls ``set_epoch`` before every episode but the first of a run, whose iterator it builds before any hook;
    ``episode`` is where the run starts or resumes.

    Args:
        plan: the episodes.
        purpose: ``train`` in random order, whole batches only, or ``extract`` all of them by position.
        batch_size: pairs of a batch, over all processes in training.
        episode: the first episode.
        rank: this process; it has a contiguous part of every training batch, and of the positions to extract.
        world: number of processes.

    Attributes:
        chosen: places in the episode to extract, in order; None for all.

    Raises:
        ValueError: a batch larger than the episode, or one that does not divide by the processes.
    """

    def __init__(
        self, plan: EpisodePlan, *, purpose: str, batch_size: int, episode: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if not 1 <= batch_size <= plan.size:
            raise ValueError(
                f"a batch of {batch_size} from an episode of {plan.size}: set batch_size between 1 and episode.size"
            )
        if purpose == "train":
            local_batch_size(batch_size, world)
        self.plan = plan
        self.purpose = purpose
        self.episode = episode
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.chosen: np.ndarray | None = None

    def set_epoch(self, epoch: int) -> None:
        """Go to an episode; takes effect at the next iteration."""
        self.episode = epoch

    def __len__(self) -> int:
        return len(self._positions(self.episode))

    def __iter__(self) -> Iterator[SampleKey]:
        episode = self.episode
        block = self.plan.block(episode)
        indices = self.plan.indices(block)
        for position in self._positions(episode).tolist():
            yield SampleKey(int(indices[position]), position, episode, block, self.purpose)

    def _positions(self, episode: int) -> np.ndarray:
        """Positions of this process in their order."""
        if self.purpose == "extract":
            chosen = np.arange(self.plan.size) if self.chosen is None else self.chosen
            return np.array_split(chosen, self.world)[self.rank]
        whole = self.plan.size // self.batch_size * self.batch_size
        shares = self.plan.order(episode)[:whole].reshape(-1, self.world, local_batch_size(self.batch_size, self.world))
        return shares[:, self.rank].reshape(-1)


def local_batch_size(batch_size: int, world: int) -> int:
    """Pairs of one process in a batch.

    Raises:
        ValueError: the batch does not divide by the processes.
    """
    if batch_size % world:
        raise ValueError(f"a batch of {batch_size} pairs on {world} processes: set batch_size to a multiple of {world}")
    return batch_size // world


def episode_count(
    plan_size: int, corpus_size: int | None, *, episodes: int | None = None, epochs: float | None = None
) -> int:
    """Length of a run in episodes, given as such or as passes over the corpus.

    Raises:
        ValueError: neither or both are given, or less than one episode results.
    """
    if (episodes is None) == (epochs is None):
        raise ValueError("give either run.episodes or run.epochs")
    if episodes is None:
        assert epochs is not None
        if corpus_size is None:
            raise ValueError("a stream has no end to pass over: set run.epochs=null and run.episodes")
        episodes = round(epochs * corpus_size / plan_size)
    if episodes < 1:
        raise ValueError("the run is shorter than one episode: raise run.episodes or run.epochs, or lower episode.size")
    return episodes
