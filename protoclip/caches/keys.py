"""Rows of a cache by the keys of their pairs, for streams, whose pairs have no place in a corpus."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protoclip.files import replacing
from protoclip.seeds import derive_seed

KEYS = "keys.npy"


def key_number(key: str) -> int:
    """The number in [0, 2**63) that stands for the key of a pair."""
    return derive_seed("pair", key)


def write_keys(folder: Path, numbers: NDArray[np.int64]) -> None:
    """Write the table of a cache: int64 [2, pairs], the numbers of its keys in order, and the pair of each.

    Args:
        folder: of the cache.
        numbers: of the pairs' keys, in the order of the pairs.
    """
    order = numbers.argsort(kind="stable")
    with replacing(folder / KEYS) as file:
        np.lib.format.write_array(file, np.stack([numbers[order], order]), allow_pickle=False)


def find_keys(table: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of keys.

    Args:
        table: as ``write_keys`` wrote it.
        numbers: of keys [n].

    Returns:
        The pair of each [n].

    Raises:
        KeyError: a number is not in the table, or there for several pairs.
    """
    places = np.searchsorted(table[0], numbers)
    wrong = np.flatnonzero(np.searchsorted(table[0], numbers, side="right") != places + 1)
    if len(wrong):
        raise KeyError(int(numbers[wrong[0]]))
    return np.asarray(table[1][places])
