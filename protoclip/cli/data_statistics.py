"""Figures of a corpus that take 8 bytes for each distinct thing, however long the corpus is."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_OUTER = re.compile(r"^[\W_]+|[\W_]+$")
_LEAST = 1 << 18  # hashes that are gathered before they are sorted in


def hashes(items: Iterable[bytes]) -> Hashes:
    """8 bytes of BLAKE2b of each item: two of 15 million collide with a chance of 1 in 100,000."""
    digests = b"".join(blake2b(item, digest_size=8).digest() for item in items)
    return np.frombuffer(digests, np.uint64)


class Distinct:
    """Counts hashes and how many of them are distinct."""

    def __init__(self) -> None:
        self.total = 0
        self._sorted: Hashes = np.empty(0, np.uint64)
        self._gathered: list[Hashes] = []
        self._waiting = 0

    def add(self, found: Hashes) -> None:
        """Count hashes."""
        self.total += len(found)
        self._gathered.append(found)
        self._waiting += len(found)
        if self._waiting > max(_LEAST, len(self._sorted)):
            self._merge()

    @property
    def count(self) -> int:
        """How many are distinct."""
        self._merge()
        return len(self._sorted)

    def _merge(self) -> None:
        self._sorted = np.unique(np.concatenate([self._sorted, *self._gathered]))
        self._gathered, self._waiting = [], 0


class Moments:
    """Mean and standard deviation of whole numbers, exact at any length."""

    def __init__(self) -> None:
        self.count = self._sum = self._squares = 0

    def add(self, numbers: Iterable[int]) -> None:
        """Take numbers in."""
        for number in numbers:
            self.count += 1
            self._sum += number
            self._squares += number * number

    @property
    def mean(self) -> float:
        """NaN of none."""
        return self._sum / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Of the numbers themselves (divided by n, not n - 1); NaN of none."""
        variance = self._squares * self.count - self._sum**2
        return math.sqrt(variance) / self.count if self.count else math.nan


def quantiles(counts: Counter[int], shares: Sequence[float]) -> list[int]:
    """The smallest values that at least these shares of all values are not above.

    Args:
        counts: of each value, at least one.
        shares: between 0 and 1.
    """
    values = np.array(sorted(counts))
    reached = np.cumsum([counts[value] for value in values.tolist()])
    places = np.searchsorted(reached, np.ceil(np.array(shares) * reached[-1]))
    return [int(value) for value in values[places]]


def english_words(words: Iterable[str]) -> tuple[int, int] | None:
    """How many words are English, and how many are words: those with a letter or a digit.

    A word is English if, without case and outer punctuation, it is one of pyspellchecker's 160,000 forms. They
    include inflected forms and common names; numbers, file names and most words of other languages are none.

    Args:
        words: split at white space.

    Returns:
        None where pyspellchecker is not installed.
    """
    if _english() is None:
        return None
    found = [_is_english(word) for word in words]
    return found.count(True), len(found) - found.count(None)


@lru_cache(1 << 16)
def _is_english(word: str) -> bool | None:
    """None where it is punctuation alone."""
    known, bare = _english(), _OUTER.sub("", word.lower())
    return bare in known if bare and known is not None else None


@cache
def _english() -> frozenset[str] | None:
    try:
        from spellchecker import SpellChecker  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return frozenset(SpellChecker(language="en"))
