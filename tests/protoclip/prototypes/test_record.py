"""The record of features: what is kept, what a run that goes on finds, and what it forgets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from protoclip.prototypes import FeatureRecord
from protoclip.prototypes.record import Visits

PAIRS, DIM = 10, 4


def visits(episode: int, *indices: int) -> Visits:
    generator = torch.Generator().manual_seed(episode)
    features = normalize(torch.randn(len(indices), 2, DIM, generator=generator), dim=-1)
    return Visits(episode, torch.tensor(indices), torch.tensor(indices) % 5, features.half())


def record(folder: Path, *, resumed: bool = False) -> FeatureRecord:
    return FeatureRecord(folder, PAIRS, DIM, resumed=resumed)


def seen(found: FeatureRecord) -> dict[int, int]:
    """Last visit of the pairs that have one."""
    return {pair: visit for pair, visit in enumerate(found.visited(torch.arange(PAIRS)).tolist()) if visit >= 0}


def features(found: FeatureRecord, *indices: int) -> Tensor:
    """[pairs, 2, dim]."""
    return torch.stack(found.features(torch.tensor(indices)), dim=1)


def test_a_new_record_has_seen_nothing(tmp_path: Path) -> None:
    record(tmp_path).write(visits(3, 1, 2))
    assert seen(record(tmp_path)) == {}
    assert record(tmp_path).visited(torch.tensor([4, 4])).tolist() == [-1, -1]


def test_features_come_back_by_pair_in_unit_length(tmp_path: Path) -> None:
    found, given = record(tmp_path / "new" / "folder"), visits(2, 7, 0, 3)
    found.write(given)
    assert seen(found) == {0: 2, 3: 2, 7: 2}
    image, text = found.features(torch.tensor([3, 7, 3]))
    for modality, recorded in enumerate((image, text)):
        assert recorded.dtype == torch.float32
        torch.testing.assert_close(recorded.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
        torch.testing.assert_close(recorded, given.features[[2, 0, 2], modality].float(), rtol=0, atol=1e-3)


def test_the_last_visit_counts(tmp_path: Path) -> None:
    found, again = record(tmp_path), visits(1, 5, 2, 5)
    found.write(visits(0, 5, 6))
    found.write(again)
    assert seen(found) == {2: 1, 5: 1, 6: 0}
    expected = normalize(again.features[[2, 1]].float(), dim=-1)
    assert torch.equal(features(found, 5, 2), expected)


def test_no_pair_has_no_features(tmp_path: Path) -> None:
    image, text = record(tmp_path).features(torch.tensor([], dtype=torch.int64))
    assert image.shape == text.shape == (0, DIM)


def test_what_is_written_is_in_the_files_at_once(tmp_path: Path) -> None:
    found, given = record(tmp_path), visits(0, 9, 1)
    found.write(given)
    assert np.array_equal(np.load(tmp_path / "features.npy")[[9, 1]], given.features.numpy())
    assert np.load(tmp_path / "visited.npy").tolist() == [-1, 0, *[-1] * 7, 0]
    assert np.load(tmp_path / "captions.npy")[[9, 1]].tolist() == [4, 1]


def test_a_run_goes_on_with_its_record(tmp_path: Path) -> None:
    before = record(tmp_path)
    before.write(visits(0, 1, 2))
    after = record(tmp_path, resumed=True)
    assert seen(after) == {1: 0, 2: 0}
    assert torch.equal(features(after, 1, 2), features(before, 1, 2))
    after.write(visits(1, 2))
    assert seen(record(tmp_path, resumed=True)) == {1: 0, 2: 1}


def test_later_visits_are_forgotten(tmp_path: Path) -> None:
    found = record(tmp_path)
    for episode, pairs in enumerate([(0, 1), (1, 2), (2, 3)]):
        found.write(visits(episode, *pairs))
    assert found.forget_after(2) == 0
    assert found.forget_after(1) == 2
    assert seen(found) == seen(record(tmp_path, resumed=True)) == {0: 0, 1: 1}


def test_writing_an_episode_twice_changes_nothing(tmp_path: Path) -> None:
    found = record(tmp_path)
    found.write(visits(0, 1, 2))
    found.write(visits(1, 2, 4))
    before = features(found, 1, 2, 4)
    found.write(visits(1, 2, 4))
    assert torch.equal(features(found, 1, 2, 4), before)
    assert seen(found) == {1: 0, 2: 1, 4: 1}


def test_a_torn_write_leaves_no_feature_under_an_earlier_episode(tmp_path: Path) -> None:
    found = record(tmp_path)
    found.write(visits(0, 1, 2))
    torn = visits(1, 2, 4)
    with pytest.raises(ValueError, match="broadcast"):
        found.write(torn._replace(features=torn.features[:, :, :3]))
    after = record(tmp_path, resumed=True)
    assert after.forget_after(0) == 2
    assert seen(after) == {1: 0}


@pytest.mark.parametrize("name", ["features.npy", "captions.npy", "visited.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "other"])
def test_a_record_that_cannot_be_gone_on_with(tmp_path: Path, name: str, damage: str) -> None:
    record(tmp_path)
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "short": file.read_bytes()[:-8], "other": b"words" * 40}[damage])
    with pytest.raises(ValueError, match=r"cannot be read .*: remove the run and start again$") as caught:
        record(tmp_path, resumed=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("pairs", "dim"), [(PAIRS + 1, DIM), (PAIRS, DIM + 1)])
def test_a_record_of_another_corpus_or_head(tmp_path: Path, pairs: int, dim: int) -> None:
    record(tmp_path)
    with pytest.raises(ValueError, match=r"another corpus or head: remove the run and start again$"):
        FeatureRecord(tmp_path, pairs, dim, resumed=True)
