"""Faults by kind: how many, and the first of each."""

import json
import logging
from collections import Counter
from collections.abc import Collection

from datamodules.sources import Fault, FaultKind

logger = logging.getLogger(__name__)

SHARD_FAULTS: frozenset[FaultKind] = frozenset({"missing_shard", "damaged_shard", "bad_gzip"})
"""What is wrong with a whole shard; the other kinds are about one sample."""


class FaultTally:
    """Counts faults by kind and keeps the first of each.

    Attributes:
        counts: faults by kind.
        first: the first fault of each kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[FaultKind] = Counter()
        self.first: dict[FaultKind, Fault] = {}

    def add(self, fault: Fault, number: int = 1) -> None:
        """Count a fault that stands for so many."""
        self.counts[fault.kind] += number
        self.first.setdefault(fault.kind, fault)

    def tell(self, corpus: object) -> None:
        """One warning for each kind."""
        for kind, fault in self.first.items():
            logger.warning("%s: %d %s, the first: %s", corpus, self.counts[kind], kind, one_line(fault))

    def check(self, kinds: Collection[FaultKind], total: int, what: str, max_share: float) -> None:
        """Refuse too many faults.

        Args:
            kinds: that are counted together.
            total: how many there are, with the faulty ones.
            what: to call them.
            max_share: of them that may be faulty.

        Raises:
            ValueError: there are more.
        """
        faulty = sum(self.counts[kind] for kind in kinds)
        if faulty > max_share * total:
            first = next(fault for kind, fault in self.first.items() if kind in kinds)
            raise ValueError(
                f"{faulty} of {total} {what} cannot be used whole, the first because of {one_line(first)}; "
                f"mend the corpus, or raise data.max_faults={max_share:g}"
            )

    def to_json(self) -> str:
        """The text that :meth:`from_json` reads."""
        return json.dumps([[kind, self.counts[kind], fault.place, fault.reason] for kind, fault in self.first.items()])

    @classmethod
    def from_json(cls, text: str | bytes) -> "FaultTally":
        """A tally as it was written."""
        tally = cls()
        for kind, number, place, reason in json.loads(text):
            tally.add(Fault(kind, place, reason), number)
        return tally


def one_line(fault: Fault) -> str:
    """Place and reason of a fault, for messages."""
    return f"{fault.place}: {fault.reason.removeprefix(f'{fault.place}: ')}"
