"""Several corpora as one, each with its share of every episode."""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.sources import PairSource, Picture, UnreadableSample


class MixedPairs(PairSource):
    """The pairs of several sources of any kind, one source after the other.

    Args:
        sources: by name, which stands before the keys of its pairs.
        weights: of each source by name, the share of its pairs in an episode, in any unit; None: by size.

    Attributes:
        fingerprint: SHA-256 of the sources' names, fingerprints and shares.
        faults: those of all sources.

    Raises:
        ValueError: no source, or weights that are not one number above 0 for each.
    """

    def __init__(self, sources: Mapping[str, PairSource], weights: Mapping[str, float] | None = None) -> None:
        if not sources:
            raise ValueError("a mix of no source: name one or more in data.sources")
        self.sources = dict(sources)
        self._named = [*self.sources.items()]
        sizes = [len(source) for source in self.sources.values()]
        self._starts = [0, *accumulate(sizes)]
        self._strata = [*zip(sizes, self._shares(sizes, weights), strict=True)]
        self.faults = sum((Counter(source.faults) for source in self.sources.values()), Counter())
        described = [
            (name, source.fingerprint, share)
            for (name, source), (_, share) in zip(self.sources.items(), self._strata, strict=True)
        ]
        self.fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def _shares(self, sizes: Sequence[int], weights: Mapping[str, float] | None) -> list[float]:
        given = dict(zip(self.sources, sizes, strict=True)) if weights is None else dict(weights)
        for name in {**self.sources, **given}:
            if name not in self.sources:
                raise ValueError(f"data.weights names {name}, and the sources are {', '.join(self.sources)}: mend it")
            if not given.get(name, 0) > 0:
                raise ValueError(f"data.weights.{name}={given.get(name)}: give each source a weight above 0")
        total = sum(given.values())
        return [given[name] / total for name in self.sources]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def strata(self) -> Sequence[tuple[int, float]]:
        """Size and share of each source."""
        return self._strata

    def _at(self, index: int) -> tuple[str, Any, int]:
        """Name of the source that holds a pair, the source, and the pair's place in it."""
        number = bisect_right(self._starts, index) - 1
        name, source = self._named[number]
        return name, source, index - self._starts[number]

    def key(self, index: int) -> str:
        """Name of the source, and the pair's name there."""
        name, source, place = self._at(index)
        return f"{name}:{source.key(place)}"

    def image(self, index: int) -> Picture:
        """The picture of a pair; an UnreadableSample where it is missing or broken."""
        _, source, place = self._at(index)
        picture: Picture = source.image(place)
        return picture

    def captions(self, index: int) -> Sequence[str]:
        """All captions of a pair; an UnreadableSample where it has none that is text."""
        _, source, place = self._at(index)
        captions: Sequence[str] = source.captions(place)
        return captions

    def encoded(self, index: int) -> bytes | None:  # noqa: D102
        _, source, place = self._at(index)
        encoded: bytes | None = source.encoded(place)
        return encoded

    def file(self, index: int) -> Path | None:  # noqa: D102
        _, source, place = self._at(index)
        file: Path | None = source.file(place)
        return file

    @property
    def files(self) -> Iterable[Path]:
        """All files of all sources."""
        return chain.from_iterable(source.files for source in self.sources.values())

    def fields(self, index: int) -> Mapping[str, Any]:  # noqa: D102
        _, source, place = self._at(index)
        fields: Mapping[str, Any] = source.fields(place)
        return fields

    def numbers(self, field: str) -> NDArray[np.float64] | None:  # noqa: D102
        parts = [part for source in self.sources.values() if (part := source.numbers(field)) is not None]
        return np.concatenate(parts) if len(parts) == len(self.sources) else None

    def label(self, index: int) -> int:
        """The class of a pair in its source, -1 where that has none."""
        _, source, place = self._at(index)
        return int(source.label(place))

    def summary(self, index: int) -> str:
        """The summary of a pair.

        Raises:
            ValueError: a source has none.
        """
        _, source, place = self._summarised._at(index)
        return str(source.summary(place))

    @cached_property
    def _summarised(self) -> "MixedPairs":
        """This mix, once every source has shown a summary: a run should not find out at its last one."""
        for name, source in self.sources.items():
            if not hasattr(source, "summary"):
                mend = "write them by protoclip summarise, and add summariser=NAME"
                raise ValueError(f"the source {name} has no summaries: {mend}")
            with suppress(UnreadableSample):
                source.summary(0)
        return self
