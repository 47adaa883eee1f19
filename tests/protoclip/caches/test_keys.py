from pathlib import Path

import numpy as np
import pytest

from protoclip.caches.keys import find_keys, key_number, write_keys


def test_pairs_are_found_in_any_order(tmp_path: Path) -> None:
    numbers = np.array([key_number(f"0.tar: {place}") for place in range(1000)])
    write_keys(tmp_path, numbers)
    table = np.load(tmp_path / "keys.npy", mmap_mode="r")
    asked = np.random.default_rng(0).integers(0, 1000, 300)
    assert find_keys(table, numbers[asked]).tolist() == asked.tolist()
    assert find_keys(table, numbers[:0]).tolist() == []


@pytest.mark.parametrize("missing", [-1, 2**62 + 1])
def test_a_key_that_is_not_there(tmp_path: Path, missing: int) -> None:
    write_keys(tmp_path, np.array([30, 10, 20]))
    with pytest.raises(KeyError, match=str(missing)):
        find_keys(np.load(tmp_path / "keys.npy"), np.array([10, missing]))


def test_a_key_of_several_pairs_is_refused_and_others_are_found(tmp_path: Path) -> None:
    write_keys(tmp_path, np.array([7, 5, 5, 9]))
    table = np.load(tmp_path / "keys.npy")
    assert find_keys(table, np.array([9, 7])).tolist() == [3, 0]
    with pytest.raises(KeyError, match="5"):
        find_keys(table, np.array([7, 5]))


def test_numbers_are_fixed() -> None:
    assert key_number("000.tar: a") == key_number("000.tar: a") != key_number("000.tar: b")
    assert 0 <= key_number("") < 2**63
