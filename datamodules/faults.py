"""Unreadable samples of a run: told once each, counted, and too many of them stop it."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from datamodules.sources import Corpus, Fault, PairSource, UnreadableSample

logger = logging.getLogger(__name__)


class FaultCounter:
    """Reads the field ``replaced`` of the training batches in the main process; the workers know nothing of it.

    In several processes each counts the samples that it was given itself, against its part of the episode, and a
    checkpoint holds the first one's counts.

    Args:
        source: the corpus, asked again for the reason.
        max_share: of an episode's samples that may be replaced.

    Raises:
        ValueError: the share is not one.
    """

    def __init__(self, source: Corpus, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"data.max_faults={max_share}: give a share between 0 and 1")
        self._source = source
        self._max_share = max_share
        self._unreadable: dict[int, None] = {}
        self._samples = 0
        self._episode = -1
        self._seen = 0
        self._replaced = 0

    @property
    def counts(self) -> dict[str, int]:
        """``pairs`` of the corpus that could not be read, and ``samples`` of both passes that they were replaced in."""
        return {"pairs": len(self._unreadable), "samples": self._samples}

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
            self._episode, self._seen, self._replaced = episode, 0, 0
        self._seen += len(replaced)
        unreadable: list[int] = replaced[replaced >= 0].tolist()
        if not unreadable:
            return
        for index in unreadable:
            if index not in self._unreadable:
                self._unreadable[index] = None
                logger.warning("pair %d is replaced: %s", index, self._reason(index))
        self._samples += len(unreadable)
        self._replaced += len(unreadable)
        whole = part * math.ceil(self._seen / part)  # an episode is read once for prototypes, and once for training
        if self._replaced > self._max_share * whole:
            raise ValueError(
                f"{self._replaced} of {whole:.0f} samples of episode {episode} cannot be read, the last because of "
                f"{self._reason(unreadable[-1])}; mend the corpus, or raise data.max_faults={self._max_share:g}"
            )

    def see_faults(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            logger.warning("%s", fault)

    def _reason(self, index: int) -> str:
        assert isinstance(self._source, PairSource)
        try:
            self._source.image(index)
            self._source.captions(index)
        except UnreadableSample as error:
            return str(error)
        return "it could not be read at first, and now it can"

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the pairs that need not be told again."""
        return {"pairs": list(self._unreadable), "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on."""
        self._unreadable = dict.fromkeys(state["pairs"])
        self._samples = state["samples"]
