"""Rows of a cache, and the caches that are refused."""

import json
import pickle
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from protoclip.teachers import TeacherCache
from tests.teachers import CORPUS, DIM, Hashes, PictureHashes, hashed, make

COMMAND = "run protoclip teacher with the same words$"
ELSEWHERE = rf"choose another folder by teacher\.cache=DIR, or remove this one, and {COMMAND}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished cache of the corpus."""
    make(hashed(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_row_is_that_of_the_caption_that_was_drawn(folder: Path) -> None:
    cache, encode = hashed(folder), Hashes()
    rows = cache.rows(torch.tensor([2, 0, 17, 2]), torch.tensor([1, 0, 2, 0]))
    torch.testing.assert_close(rows, encode([CORPUS[2][1], CORPUS[0][0], CORPUS[17][2], CORPUS[2][0]]))
    assert torch.equal(cache.rows([2, 0, 17, 2], [1, 0, 2, 0]), rows)
    assert rows.dtype == torch.float32
    assert cache.dim == DIM
    assert cache.rows([], []).shape == (0, DIM)


def test_a_caption_that_is_not_in_the_cache_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"has 2 captions of pair 1, and number 2 was drawn: remove it and {COMMAND}"):
        hashed(folder).rows([2, 1], [2, 2])


def test_an_image_teacher_has_a_row_for_each_pair(tmp_path: Path) -> None:
    cache = TeacherCache(str(tmp_path), name="hashed", encoder=PictureHashes())
    make(cache, [[f"picture {i}"] for i in range(7)])
    torch.testing.assert_close(cache.rows([6, 3], [4, 1]), Hashes()(["picture 6", "picture 3"]))


def test_a_pair_that_cannot_be_read_is_a_zero_row(tmp_path: Path) -> None:
    for dims in (None, 3):
        cache = hashed(tmp_path / str(dims), dims)
        make(cache, [["a"], None, ["b", "c"], ["d"], None])
        assert cache.facts["unreadable"] == 2
        assert not cache.rows([1, 4], [0, 0]).any()
        assert cache.rows([0, 2, 2, 3], [0, 0, 1, 0]).any(1).all()


def test_features_after_pca_are_those_of_the_readable_rows(tmp_path: Path) -> None:
    from sklearn.decomposition import PCA

    cache = hashed(tmp_path, 3)
    make(cache, [*CORPUS, None])
    raw = Hashes()([caption for captions in CORPUS for caption in captions]).double().numpy()
    pca = PCA(3, svd_solver="full").fit(raw)
    np.testing.assert_allclose(np.load(tmp_path / "features.npy")[:-1], pca.transform(raw), atol=1e-6)
    assert cache.dim == 3
    assert cache.facts["explained_variance"] == pytest.approx(pca.explained_variance_ratio_.sum())


def test_the_right_cache_is_accepted_and_no_model_is_loaded(folder: Path) -> None:
    cache = hashed(folder)
    cache.check("corpus")
    cache.rows([0], [0])
    assert isinstance(cache.encoder, Hashes)
    assert cache.encoder._network is None


@pytest.mark.parametrize(
    ("changed", "corpus", "told"),
    [
        ({"dims": 3}, "corpus", "is made with dims=None instead of 3"),
        ({"model": "others"}, "corpus", r"is made with encoder\.model=hashes instead of others"),
        ({}, "another", "is of another corpus"),
    ],
)
def test_another_cache_is_refused_in_one_line(folder: Path, changed: dict[str, Any], corpus: str, told: str) -> None:
    cache = hashed(folder, **changed)
    with pytest.raises(ValueError, match=rf"^the cache [^\n]* {told}: {ELSEWHERE}"):
        cache.check(corpus)
    if changed:
        with pytest.raises(ValueError, match=told):
            cache.rows([0], [0])


def test_a_missing_cache_and_an_unfinished_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^the cache [^\n]* is missing: {COMMAND}"):
        hashed(tmp_path / "none").check("corpus")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "progress.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"is not finished: {COMMAND}"):
        hashed(tmp_path / "begun").check("corpus")
    with pytest.raises(ValueError, match="is missing"):
        _ = hashed(tmp_path / "none").dim


def test_a_damaged_cache_is_refused(folder: Path) -> None:
    whole = (folder / "features.npy").read_bytes()
    for damaged in (whole[:-100], b"", whole[:20]):
        (folder / "features.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"is damaged \([^\n]*\): remove it and {COMMAND}"):
            hashed(folder).check("corpus")
    (folder / "features.npy").write_bytes(whole)
    (folder / "first.npy").write_bytes((folder / "features.npy").read_bytes())
    with pytest.raises(ValueError, match=r"is damaged \(first\.npy is \(39, 6\) instead of \(21,\)\)"):
        hashed(folder).check("corpus")
    (folder / "teacher.json").write_text("{")
    with pytest.raises(ValueError, match=r"teacher\.json is damaged: remove the folder"):
        hashed(folder).check("corpus")


def test_the_fingerprint_is_of_features_and_corpus_and_kind_alone(folder: Path, tmp_path: Path) -> None:
    fingerprint = hashed(folder).fingerprint
    renamed = TeacherCache(str(folder), name="another", encoder=Hashes())
    moved = hashed(tmp_path / "moved", model="where the same weights lie")
    make(moved)
    assert fingerprint == renamed.fingerprint == moved.fingerprint
    others = [hashed(tmp_path / name) for name in ("dims", "corpus", "kind")]
    others[0].dims, others[2].encoder = 3, PictureHashes()
    for other, name in zip(others, ("corpus", "another", "corpus"), strict=True):
        make(other, name=name)
    assert len({fingerprint, *(other.fingerprint for other in others)}) == 4


def test_other_weights_of_the_same_settings_have_another_fingerprint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint, encode = hashed(folder).fingerprint, Hashes._encode
    shutil.rmtree(folder)
    monkeypatch.setattr(Hashes, "_encode", lambda self, items: encode(self, items) + 1)
    make(hashed(folder))
    assert hashed(folder).fingerprint != fingerprint


def test_a_cache_without_a_hash_of_its_features_is_refused(folder: Path) -> None:
    facts = json.loads((folder / "teacher.json").read_text())
    assert facts.pop("sha256") == sha256((folder / "features.npy").read_bytes()).hexdigest()
    (folder / "teacher.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=rf"^the cache [^\n]* is of an earlier version: {ELSEWHERE}"):
        hashed(folder).check("corpus")


class Rows(Dataset[torch.Tensor]):
    """Rows of a cache, as a loader's worker reads them."""

    def __init__(self, cache: TeacherCache) -> None:
        self.cache = cache

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.cache.rows([index], [0])[0]

    def __len__(self) -> int:
        return len(CORPUS)


def test_a_worker_gets_the_settings_and_not_the_data(folder: Path) -> None:
    cache = hashed(folder)
    before = len(pickle.dumps(cache))
    expected = cache.rows(range(len(CORPUS)), [0] * len(CORPUS))
    assert len(pickle.dumps(cache)) == before
    batches = DataLoader(Rows(cache), batch_size=4, num_workers=1, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(batches)), expected)


def test_the_sidecar_says_what_the_features_are(folder: Path) -> None:
    facts = json.loads((folder / "teacher.json").read_text())
    expected: dict[str, Any] = {
        "name": "hashed",
        "encoder": {"model": "hashes"},
        "dims": None,
        "dim": DIM,
        "raw_dim": DIM,
    }
    expected |= {"corpus": "corpus", "pairs": 20, "rows": 39, "unreadable": 0, "explained_variance": 1.0}
    assert expected.items() <= facts.items()
    assert "torch" in facts["versions"]
