"""A cache that is killed at any moment ends with the bytes of one that is not."""

import os
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from protoclip.caches import making
from protoclip.teachers import encode
from protoclip.teachers.cache import FEATURES, FIRST, SIDECAR
from tests.dying import content, dies_at
from tests.teachers import CORPUS, Hashes, hashed, make

PAIRS = (*CORPUS[:4], None, *CORPUS[4:8])


def whole(folder: Path, dims: int | None) -> dict[str, bytes]:
    """The files of an encoding without interruption."""
    make(hashed(folder, dims), PAIRS)
    return content(folder)


@pytest.mark.parametrize(
    ("owner", "name", "seconds", "least"),
    [
        (Hashes, "_encode", 0.0, 4),
        (Hashes, "_encode", 1e9, 4),  # nothing counts before the end
        (os, "fsync", 0.0, 20),  # around every file that is written
        (Path, "unlink", 1e9, 7),  # and behind the last one
        (encode, "fit_pca", 1e9, 1),
    ],
)
def test_a_killed_encoding_goes_on_to_the_same_bytes(
    owner: Any, name: str, seconds: float, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", seconds)
    expected = whole(tmp_path / "whole", 3)
    for deaths in count():
        cache = hashed(tmp_path / str(deaths), 3)
        if not dies_at(deaths, owner, name, partial(make, cache, PAIRS)):
            break
        make(cache, PAIRS)
        assert content(tmp_path / str(deaths)) == expected
    assert deaths >= least


@pytest.mark.parametrize("dims", [None, 3])
def test_killed_again_and_again_it_comes_to_an_end(
    dims: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", 0.0)
    cache = hashed(tmp_path / "cache", dims)
    lives = 1
    while dies_at(2, Hashes, "_encode", partial(make, cache, PAIRS)):  # behind the example and one batch
        lives += 1
    assert lives == 3
    assert content(tmp_path / "cache") == whole(tmp_path / "whole", dims)


def test_what_is_encoded_already_is_not_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", 0.0)
    assert dies_at(5, Hashes, "_encode", lambda: make(hashed(tmp_path)))  # the example, and four batches
    cache = hashed(tmp_path)
    assert make(cache)
    assert isinstance(cache.encoder, Hashes)
    assert sum(cache.encoder.batches[1:]) == 39 - 4 * 6  # batches of 5 are closed by the pair that fills them


def test_a_finished_cache_is_left_alone(tmp_path: Path) -> None:
    assert make(hashed(tmp_path))
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in (FEATURES, FIRST, SIDECAR)}
    cache = hashed(tmp_path)
    assert not make(cache)
    assert isinstance(cache.encoder, Hashes)
    assert cache.encoder._network is None
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in times} == times


def test_files_are_plain_arrays(tmp_path: Path) -> None:
    make(hashed(tmp_path))
    features = np.load(tmp_path / FEATURES, mmap_mode="r", allow_pickle=False)
    assert (features.dtype, features.shape) == (np.float32, (39, 6))
    first = np.load(tmp_path / FIRST, allow_pickle=False)
    assert first.dtype == np.int64
    assert first.tolist() == [0, *np.cumsum([len(captions) for captions in CORPUS])]
    assert {file.name for file in tmp_path.iterdir()} <= {FEATURES, FIRST, SIDECAR, "keys.npy", ".lock"}


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_over_a_folder_are_refused(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", 0.0)
    if finished:
        make(hashed(tmp_path, 4))
    else:
        assert dies_at(4, Hashes, "_encode", lambda: make(hashed(tmp_path, 4)))
    before = content(tmp_path)
    for other, corpus, told in [
        (hashed(tmp_path, 3), "corpus", "is made with dims=4 instead of 3: choose another folder"),
        (hashed(tmp_path, 4, model="b"), "corpus", r"encoder\.model=hashes instead of b: choose another folder"),
        (hashed(tmp_path, 4), "another", "is of another corpus: choose another folder"),
    ]:
        with pytest.raises(ValueError, match=told):
            make(other, name=corpus)
    assert content(tmp_path) == before


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / ".lock")
    with lock, pytest.raises(ValueError, match=r"is being written by another process: wait for it$"):
        make(hashed(tmp_path))


def test_more_dims_than_there_are_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^teachers\.hashed\.dims=7: the model has 6: set that or less, or null$"):
        make(hashed(tmp_path / "cache", 7))
    assert not (tmp_path / "cache").exists()
    with pytest.raises(
        ValueError, match=r"^teachers\.hashed\.dims=5: there are 4 rows: remove [^\n]*, and set that or"
    ):
        make(hashed(tmp_path / "few", 5), [["a", "b"], None, ["c", "d"]])


def test_features_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Hashes._encode
    monkeypatch.setattr(Hashes, "_encode", lambda self, items: original(self, items).log())
    with pytest.raises(ValueError, match=r"not finite.* at pairs 0 to 2: use other weights, remove "):
        make(hashed(tmp_path))


def test_lost_bytes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", 0.0)
    assert dies_at(4, Hashes, "_encode", lambda: make(hashed(tmp_path)))
    with (tmp_path / encode.RAW).open("ab") as raw:
        raw.truncate(10)
    with pytest.raises(ValueError, match="is damaged: remove it and run protoclip teacher"):
        make(hashed(tmp_path))
