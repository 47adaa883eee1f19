"""Finished caches, and the ones that are refused."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protoclip.caches import CorpusCache, Origin
from protoclip.caches.keys import write_keys

MEND = "run protoclip count with the same words$"


class Numbers(CorpusCache):
    """An array of numbers."""

    origin = Origin("count", "count.folder", "count.json")

    def shapes(self, facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {"numbers.npy": (facts["pairs"],)}

    def row(self, index: int) -> int:
        return int(self._open()[0][self.pairs(np.array([index]))[0]])


def write(folder: Path, corpus: str = "corpus", sha256: str = "of the array") -> Numbers:
    folder.mkdir(exist_ok=True)
    np.save(folder / "numbers.npy", np.arange(1000))
    (folder / "count.json").write_text(json.dumps({"corpus": corpus, "pairs": 1000, "sha256": sha256}))
    return Numbers(str(folder))


def test_a_copy_reads_for_itself(tmp_path: Path) -> None:
    cache = write(tmp_path)
    cheap = len(pickle.dumps(cache))
    cache.check("corpus")
    assert cache.row(7) == 7
    assert len(pickle.dumps(cache)) == cheap
    assert pickle.loads(pickle.dumps(cache)).row(7) == 7


def test_the_fingerprint_is_of_content_and_corpus_alone(tmp_path: Path) -> None:
    one, moved = write(tmp_path / "one"), write(tmp_path / "moved")
    assert one.fingerprint == moved.fingerprint
    others = [write(tmp_path / "corpus", corpus="another"), write(tmp_path / "content", sha256="of another")]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_a_cache_that_does_not_serve_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"is missing: {MEND}"):
        Numbers(str(tmp_path / "none")).check("corpus")
    (tmp_path / "begun").mkdir()
    with pytest.raises(ValueError, match=f"is not finished: {MEND}"):
        Numbers(str(tmp_path / "begun")).check("corpus")
    cache = write(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"^the cache \S+ is of another corpus: choose another folder by count\.fold"):
        cache.check("another")
    np.save(tmp_path / "cache" / "numbers.npy", np.arange(3))
    with pytest.raises(
        ValueError, match=rf"is damaged \(numbers\.npy is \(3,\) instead of \(1000,\)\): remove it .*{MEND}"
    ):
        cache.check("corpus")
    (tmp_path / "cache" / "count.json").write_text("{")
    with pytest.raises(ValueError, match=r"count\.json is damaged: remove the folder"):
        cache.check("corpus")


def test_a_stream_is_served_by_key_whatever_corpus_the_cache_is_of(tmp_path: Path) -> None:
    cache = write(tmp_path)
    with pytest.raises(ValueError, match=rf"is damaged \(.*keys\.npy.*\): remove it .*{MEND}"):
        cache.serve(None)
    write_keys(tmp_path, 5000 - np.arange(1000))
    cache.serve(None)
    assert cache.row(4990) == 10
    assert pickle.loads(pickle.dumps(cache)).row(4990) == 10
    with pytest.raises(
        ValueError, match=r"does not have just one pair of a key of the stream, that of number 10: choose another"
    ):
        cache.row(10)
    cache.serve("corpus")
    assert cache.row(10) == 10
