"""Regions on the disk."""

import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.region_cache import RegionCache, make_regions
from protoclip.caches import Numbered, Sample, key_number, making
from protoclip.detector import Detector
from tests.dying import content, dies_at

PICTURES: list[Sample] = [[np.full((3, 4, 5 + i), 40 * i, np.uint8)] for i in range(6)]
PICTURES[2] = None


class Means(Detector):
    """As many regions as the mean of a picture says, which fill it all."""

    network = None
    dim = 5

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        rows = np.zeros((len(pictures), self.boxes, self.dim), np.float32)
        for row, picture in zip(rows, pictures, strict=True):
            row[: int(picture.mean()) // 40] = [picture.mean(), 0, 0, 1, 1]
        return rows


def make(folder: Path, **settings: Any) -> bool:
    def samples(start: int) -> Iterator[Numbered]:
        for number in range(start, len(PICTURES)):
            yield key_number(str(number)), PICTURES[number]

    detector = Means("means", weights=None, boxes=3, **settings)
    return make_regions(str(folder), detector, samples, corpus="corpus", pairs=len(PICTURES), batch_size=2)


def test_rows_are_the_regions_of_their_pictures(tmp_path: Path) -> None:
    assert make(tmp_path)
    cache = RegionCache(str(tmp_path))
    cache.check("corpus")
    assert (cache.dim, cache.row(5).shape) == (5, (3, 5))
    assert cache.row(5).dtype == np.float32
    assert [int(cache.row(index).any(1).sum()) for index in range(6)] == [0, 1, 0, 3, 3, 3]
    assert cache.row(1)[0].tolist() == [40, 0, 0, 1, 1]
    stored = np.load(tmp_path / "regions.npy", mmap_mode="r")
    assert (stored.shape, stored.dtype) == ((6, 3, 5), np.float32)
    facts = cache.facts
    assert facts["detector"]["weights"] == "untrained"
    assert (facts["regions"], facts["without_regions"], facts["unreadable"]) == (10, 2, 1)
    assert set(content(tmp_path)) == {"regions.npy", "regions.json", "keys.npy"}
    assert not make(tmp_path)


def test_a_copy_for_a_worker_is_small(tmp_path: Path) -> None:
    make(tmp_path)
    cache = RegionCache(str(tmp_path))
    cache.row(0)
    assert len(pickle.dumps(cache)) < 500
    assert pickle.loads(pickle.dumps(cache)).row(1).any()


def test_another_corpus_and_other_settings_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=r"of another corpus: choose another folder by detector\.folder=DIR, or"):
        RegionCache(str(tmp_path)).check("another")
    RegionCache(str(tmp_path), Means("means", weights=None, boxes=3)).check("corpus")
    with pytest.raises(ValueError, match=r"is made with detector\.min_score=0\.05 instead of 0\.2: choose another"):
        RegionCache(str(tmp_path), Means("means", weights=None, boxes=3, min_score=0.2)).check("corpus")
    with pytest.raises(ValueError, match=r"is made with detector\.min_score=0\.05 instead of 0\.2: choose another"):
        make(tmp_path, min_score=0.2)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", seconds)
    make(tmp_path / "whole")
    for call in range(3):
        killed = tmp_path / str(call)
        assert dies_at(call, Means, "__call__", partial(make, killed))
        with pytest.raises(ValueError, match="is not finished: run protoclip regions"):
            RegionCache(str(killed)).check("corpus")
        assert make(killed)
        assert content(killed) == content(tmp_path / "whole")


def test_features_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Means.__call__
    monkeypatch.setattr(Means, "__call__", lambda self, pictures: call(self, pictures) / 0)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"not finite at pairs 0 to 1: use other w"),
    ):
        make(tmp_path)
