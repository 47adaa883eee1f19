"""What of a corpus could not be used in a run: told once each, counted by kind, and too much of it stops the run."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from datamodules.fault_tally import SHARD_FAULTS, one_line
from datamodules.sources import Corpus, Fault, FaultKind, PairSource, PairStream, UnreadableSample
from protoclip.distributed import rank

logger = logging.getLogger(__name__)

LINES = 20
"""Faults of each kind that are told; the others are only counted."""


class FaultCounter:
    """Reads the field ``replaced`` of the training batches in the main process; the workers know nothing of it.

    In several processes each counts the samples that it was given itself, against its part of the episode, and a
    checkpoint holds the first one's counts.

    Args:
        source: the corpus, asked again for the reason.
        max_share: of an episode's samples that may be replaced.

    Attributes:
        counts: by kind, the samples that were replaced, in both passes of each episode, and what a stream passed over.

    Raises:
        ValueError: the share is not one.
    """

    def __init__(self, source: Corpus, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"data.max_faults={max_share}: give a share between 0 and 1")
        self.counts: Counter[FaultKind] = Counter()
        self._source = source
        self._max_share = max_share
        self._unreadable: dict[int, FaultKind] = {}
        self._told: dict[FaultKind, set[int | str]] = {}
        self._episode = -1
        self._seen = 0
        self._replaced = 0
        self._passed = 0
        self._bad_shards: set[str] = set()
        self._early = 0  # faults of a stream since the last batch, which may be of the next one's episode
        self._last = ""  # of them

    def see(self, batch: Mapping[str, Tensor], part: float) -> None:
        """Count a batch before it leaves for the device.

        Args:
            batch: of training or extraction, with ``replaced`` and ``episode`` [batch].
            part: samples of one pass over the episode in this process.

        Raises:
            ValueError: more samples of the episode are replaced than the share allows.
        """
        episode, replaced = int(batch["episode"][0]), batch["replaced"]
        if episode != self._episode:
            self._episode, self._seen, self._replaced, self._passed = episode, 0, 0, 0
        self._seen += len(replaced)
        unreadable: list[int] = replaced[replaced >= 0].tolist()
        for index in unreadable:
            if index not in self._unreadable:
                fault = self._fault(index)
                self._unreadable[index] = fault.kind
                self._tell(fault.kind, index, f"pair {index} is replaced: {fault.reason}")
            self.counts[self._unreadable[index]] += 1
        self._replaced += len(unreadable)
        self._passed += self._early
        self._early = 0
        # An episode is read once for prototypes, and once for training; what a stream passes over comes on top
        whole = part * math.ceil(self._seen / part) + self._passed
        if self._replaced + self._passed > self._max_share * whole:
            last = self._fault(unreadable[-1]).reason if unreadable else self._last
            bad = self._replaced + self._passed
            raise ValueError(
                f"{bad} of {whole:.0f} samples of episode {episode} cannot be read, the last because of "
                f"{last}; mend the corpus, or raise data.max_faults={self._max_share:g}"
            )

    def see_faults(self, faults: Sequence[Fault]) -> None:
        """Count what a stream passed over; of samples the next batch says whether that is too much.

        Raises:
            ValueError: more of its shards are damaged or missing than the share allows.
        """
        for fault in faults:
            self.counts[fault.kind] += 1
            self._last = one_line(fault)
            self._tell(fault.kind, fault.place, f"passed over: {self._last}")
            if fault.kind in SHARD_FAULTS:
                self._bad_shards.add(fault.place)
            else:
                self._early += 1
        shards = self._source.shards if isinstance(self._source, PairStream) else 0
        if faults and len(self._bad_shards) > self._max_share * shards:
            raise ValueError(
                f"{len(self._bad_shards)} of {shards} shards cannot be read whole, the last because of {self._last}; "
                f"mend the corpus, or raise data.max_faults={self._max_share:g}"
            )

    def _tell(self, kind: FaultKind, place: int | str, line: str) -> None:
        told = self._told.setdefault(kind, set())
        if place in told or len(told) > LINES:
            return
        told.add(place)
        logger.warning("%s", line if len(told) <= LINES else f"more faults of kind {kind} follow, and are only counted")

    def _fault(self, index: int) -> Fault:
        assert isinstance(self._source, PairSource)
        try:
            self._source.image(index)
            self._source.captions(index)
        except UnreadableSample as error:
            return Fault(error.kind, self._source.key(index), str(error))
        return Fault("unreadable_image", self._source.key(index), "it could not be read at first, and now it can")

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the pairs that need not be told again, by kind."""
        pairs: dict[str, list[int]] = {}
        for index, kind in self._unreadable.items():
            pairs.setdefault(kind, []).append(index)
        return {"pairs": pairs, "samples": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on."""
        pairs, samples = state["pairs"], state["samples"]
        if isinstance(pairs, list):  # checkpoints of earlier versions know no kinds
            pairs, samples = {"unreadable_image": pairs}, {"unreadable_image": samples} if samples else {}
        self._unreadable = {index: kind for kind, indices in pairs.items() for index in indices}
        self._told = {kind: set(indices[: LINES + 1]) for kind, indices in pairs.items()}
        self.counts = Counter(samples if rank() == 0 else {})  # those of all processes are added up
