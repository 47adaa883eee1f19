import statistics
import sys
from collections import Counter

import numpy as np
import pytest

from protoclip.cli import data_statistics
from protoclip.cli.data_statistics import Distinct, Moments, english_words, hashes, quantiles


def test_distinct_things_are_counted_by_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_statistics, "_LEAST", 4)
    distinct = Distinct()
    assert (distinct.total, distinct.count) == (0, 0)
    for start in range(0, 60, 3):
        distinct.add(hashes(str(number % 17).encode() for number in range(start, start + 3)))
    assert (distinct.total, distinct.count) == (60, 17)
    distinct.add(hashes([b"new", b"0"]))
    assert (distinct.total, distinct.count) == (62, 18)
    assert distinct._sorted.nbytes == 18 * 8


def test_moments_are_those_of_the_numbers() -> None:
    moments = Moments()
    moments.add([])
    assert np.isnan([moments.mean, moments.std]).all()
    numbers = [10**9 + 1, 3, 4, 4]
    moments.add(numbers[:1])
    moments.add(numbers[1:])
    assert moments.mean == statistics.mean(numbers)
    assert moments.std == pytest.approx(statistics.pstdev(numbers))


def test_quantiles_are_values_that_occur() -> None:
    counts = Counter({5: 1, 640: 2, 480: 1})
    assert quantiles(counts, (0, 0.25, 0.5, 0.75, 1)) == [5, 5, 480, 640, 640]


def test_english_words_have_neither_case_nor_outer_punctuation() -> None:
    words = ["A", "dog's", "“dogs”,", "-", "...", "(IMG_0231.jpg)", "犬", "5", "Hunde"]
    assert english_words(words) == (3, 7)


def test_without_the_list_no_word_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data_statistics._english.cache_clear()
    monkeypatch.setitem(sys.modules, "spellchecker", None)
    try:
        assert english_words(["a"]) is None
    finally:
        data_statistics._english.cache_clear()
