"""A cache that is killed at any moment ends with the bytes of one that is not; teachers' tests kill at more."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protoclip.caches import Numbered, Origin, Progress, Recipe, Sample, key_number, making
from protoclip.caches.making import make_cache
from tests.dying import content, dies_at

SAMPLES: list[Sample] = [["a", "b"], ["c"], None, ["d"], ["e", "f", "g"], ["h"]]


class Upper(Recipe):
    """Capital letters, a dot for what cannot be read."""

    origin = Origin("shout", "shout.folder", "shout.json")
    scratch = ("notes.raw",)

    def __init__(self, folder: Path, mark: str = "!") -> None:
        super().__init__(folder)
        self.mark = mark
        self.batches: list[tuple[int, int]] = []

    def load(self) -> None:
        if not self.mark:
            raise ValueError("no mark: set one")

    def identity(self, corpus: str) -> dict[str, Any]:
        return {"mark": {"is": self.mark}, "corpus": corpus}

    def start(self) -> Mapping[str, bytes]:
        return {"letters.txt": b">", "notes.raw": b""}

    def encode(self, batch: Sequence[Sample], pair: int) -> Mapping[str, bytes]:
        self.batches.append((pair, len(batch)))
        letters = "".join("." if sample is None else "".join(sample).upper() for sample in batch)
        return {"letters.txt": letters.encode() + self.mark.encode(), "notes.raw": b"x" * len(batch)}

    def finish(self, progress: Progress) -> dict[str, Any]:
        return {"notes": len((self.folder / "notes.raw").read_bytes())}


def make(folder: Path, mark: str = "!", corpus: str = "letters", pairs: int | None = len(SAMPLES)) -> Upper | None:
    """Make the cache; None where it was finished."""

    def samples(start: int) -> Iterator[Numbered]:
        for number in range(start, len(SAMPLES)):
            yield key_number(str(number)), SAMPLES[number]

    recipe = Upper(folder, mark)
    made = make_cache(recipe, samples, corpus=corpus, pairs=pairs, batch_size=2)
    return recipe if made else None


def test_batches_of_whole_pairs_are_appended_to_what_a_file_begins_with(tmp_path: Path) -> None:
    recipe = make(tmp_path)
    assert recipe is not None
    assert recipe.batches == [(0, 1), (1, 2), (3, 2), (5, 1)]
    assert (tmp_path / "letters.txt").read_text() == ">AB!C.!DEFG!H!"
    facts = json.loads((tmp_path / "shout.json").read_text())
    assert facts == {"mark": {"is": "!"}, "corpus": "letters", "pairs": 6, "unreadable": 1, "notes": 6}
    assert set(content(tmp_path)) == {"letters.txt", "keys.npy", "shout.json"}
    assert make(tmp_path) is None


@pytest.mark.parametrize(
    ("owner", "name", "seconds", "least"),
    [
        (Upper, "encode", 0.0, 4),
        (Upper, "encode", 1e9, 4),  # nothing counts before the end
        (os, "fsync", 0.0, 12),  # around every file that is written
    ],
)
def test_a_killed_making_goes_on_to_the_same_bytes(
    owner: Any, name: str, seconds: float, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", seconds)
    make(tmp_path / "whole")
    for deaths in count():
        folder = tmp_path / str(deaths)
        if not dies_at(deaths, owner, name, partial(make, folder)):
            break
        recipe = make(folder)
        if owner is Upper:
            assert recipe is not None
            assert len(recipe.batches) == (4 if seconds else 4 - deaths)
        assert content(folder) == content(tmp_path / "whole")
    assert deaths >= least


def test_what_cannot_be_loaded_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no mark: set one"):
        make(tmp_path / "cache", mark="")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_another_cache_is_left_as_it_is(finished: bool, tmp_path: Path) -> None:
    if finished:
        make(tmp_path)
    else:
        assert dies_at(1, Upper, "encode", partial(make, tmp_path))
    before = content(tmp_path)
    mend = (
        r"choose another folder by shout\.folder=DIR, or remove this one, and run protoclip shout with the same words"
    )
    with pytest.raises(ValueError, match=rf"is made with mark\.is=! instead of \?: {mend}"):
        make(tmp_path, mark="?")
    with pytest.raises(ValueError, match=rf"is of another corpus: {mend}"):
        make(tmp_path, corpus="digits")
    assert content(tmp_path) == before


def test_a_corpus_may_tell_its_size_by_its_end(tmp_path: Path) -> None:
    make(tmp_path / "known")
    make(tmp_path / "unknown", pairs=None)
    assert content(tmp_path / "known") == content(tmp_path / "unknown")


def test_keys_are_kept_in_order_with_their_pairs(tmp_path: Path) -> None:
    make(tmp_path)
    table = np.load(tmp_path / "keys.npy")
    numbers = [key_number(str(number)) for number in range(len(SAMPLES))]
    assert table[0].tolist() == sorted(numbers)
    assert [numbers[pair] for pair in table[1]] == sorted(numbers)
    assert not (tmp_path / "keys.raw").exists()
