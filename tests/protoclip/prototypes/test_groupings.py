"""Who groups the pairs: the student's features, or a teacher's cache, of an episode or of the whole corpus."""

import io
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from protoclip.prototypes import (
    Clusters,
    EpisodeFeatures,
    Grouping,
    KMeans,
    Prototypes,
    StudentClusters,
    TeacherClusters,
    assign_prototypes,
    back_translate,
)

PAIRS, DIM, TEACHER_DIM = 12, 4, 3
CAPTIONS = 2
COUNT = 4
EVERY = tuple(range(PAIRS))
BACKEND: Any = {"backend": "torch", "iterations": 8, "redo": 3}


def features(positions: tuple[int, ...] = EVERY, seed: int = 0) -> EpisodeFeatures:
    """Of some positions; pair 2 * p is at position p."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(PAIRS, DIM, generator=generator)[list(positions)] for _ in range(2))
    places = torch.tensor(positions)
    return EpisodeFeatures(image, text, 2 * places, places % CAPTIONS, places % 5, places, PAIRS)


class Cache:
    """A text teacher's: rows around one of four corners, a row for each caption."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(3)
        corners = torch.cat([torch.eye(TEACHER_DIM), -torch.ones(1, TEACHER_DIM)])
        self.groups = torch.randint(0, COUNT, (2 * PAIRS * CAPTIONS,), generator=generator)
        rows = corners[self.groups] + 0.02 * torch.randn(len(self.groups), TEACHER_DIM, generator=generator)
        np.save(folder / "features.npy", rows.numpy().astype(np.float32))
        self.features = np.load(folder / "features.npy", mmap_mode="r")

    def row_numbers(self, indices: Tensor, captions: Tensor) -> Tensor:
        return indices * CAPTIONS + captions

    def rows(self, indices: Tensor, captions: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self.features[self.row_numbers(indices, captions).numpy()]))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def group(grouping: Grouping, given: EpisodeFeatures, *, seed: int = 0, **teachers: Any) -> Prototypes:
    return grouping(given, COUNT, teachers=teachers, seed=seed, phase=lambda _: nullcontext())


def same_partition(labels: Tensor, groups: Tensor) -> bool:
    pairs = set(zip(labels.tolist(), groups.tolist(), strict=True))
    return len(pairs) == len(set(labels.tolist())) == len(set(groups.tolist()))


def assert_same(found: Prototypes, expected: Prototypes) -> None:
    for side in ("image", "text"):
        for name, value in getattr(expected, side)._asdict().items():
            assert torch.equal(getattr(getattr(found, side), name), value), (side, name)


# Features of an episode ----------------------------------------------------------------------------------------------
def test_joined_features_are_in_the_order_of_the_positions() -> None:
    joined, whole = features((1, 4, 9)).joined(features((0, 5))), features((0, 1, 4, 5, 9))
    for name, value in vars(whole).items():
        found = getattr(joined, name)
        assert found == value if name == "episode_size" else torch.equal(found, value), name


@pytest.mark.parametrize(("samples", "count"), [(12, 4), (9, 3), (6, 2), (2, 1), (1, 1)])
def test_as_many_prototypes_as_samples_take_part(samples: int, count: int) -> None:
    assert features(EVERY[:samples]).share_of(COUNT) == count
    assert features(EVERY[:samples]).share_of(PAIRS) == samples  # never more than there are samples


# The student's clusters ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("positions", [EVERY, (0, 2, 3, 7, 8, 11)])
def test_the_student_clusters_its_own_features(positions: tuple[int, ...]) -> None:
    given, kmeans = features(positions), KMeans(**BACKEND)
    options: Any = {"source": "same", "back_translation": False, "labels": "shuffled"}
    found = group(StudentClusters(cluster=kmeans, **options), given, seed=5)
    count = COUNT * len(positions) // PAIRS
    assert_same(found, assign_prototypes(given.image, given.text, count, cluster=kmeans, seed=5, **options))
    assert found.image.prototypes.shape == (count, DIM)


def test_the_paper_is_the_default() -> None:
    found = group(StudentClusters(cluster=KMeans(**BACKEND)), features())
    assert_same(found, assign_prototypes(features().image, features().text, COUNT, cluster=KMeans(**BACKEND)))


def test_classes_keep_their_numbers_where_some_pairs_take_no_part() -> None:
    given = replace(features((3, 8)), classes=torch.tensor([3, 0]))
    found = group(StudentClusters(labels="oracle"), given)
    assert found.image.labels.tolist() == [3, 0]
    assert found.text.counts.tolist() == [1, 0, 0, 1]


# A teacher's clusters ------------------------------------------------------------------------------------------------
def expected_groups(cache: Cache, given: EpisodeFeatures) -> Tensor:
    return cache.groups[given.indices * CAPTIONS + given.captions]


@pytest.mark.parametrize("scope", ["episode", "corpus"])
def test_a_teacher_groups_the_pairs_by_their_drawn_captions(cache: Cache, scope: Any) -> None:
    given = features()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch would tell of a map that it must not write to
        found = group(TeacherClusters("bert", scope=scope, cluster=KMeans(**BACKEND)), given, bert=cache)
    assert set(found.clusters) == {"bert"}
    labels = found.image.labels
    assert labels.dtype == torch.int64
    assert same_partition(labels, expected_groups(cache, given))
    assert torch.equal(found.text.labels, labels)
    for side, student in ((found.image, given.image), (found.text, given.text)):
        torch.testing.assert_close(side.prototypes, back_translate(student, labels, COUNT))
        teacher = cache.rows(given.indices, given.captions)
        torch.testing.assert_close(side.centroids, back_translate(teacher, labels, COUNT))
        assert torch.equal(side.counts, torch.bincount(labels, minlength=COUNT))


def test_an_episodes_clusters_are_as_many_as_its_samples_share(cache: Cache) -> None:
    found = group(TeacherClusters("bert", cluster=KMeans(**BACKEND)), features(EVERY[:6]), bert=cache)
    assert found.image.prototypes.shape == (COUNT // 2, DIM)


def test_the_corpus_is_clustered_once_and_all_of_it(cache: Cache) -> None:
    sizes: list[tuple[int, int, int]] = []
    kmeans = KMeans(**BACKEND)

    def cluster(rows: Tensor, count: int, *, seed: int) -> Clusters:
        sizes.append((len(rows), count, seed))
        return kmeans(rows, count, seed=seed)

    options: Any = {"cluster": cluster}
    grouping = TeacherClusters("bert", scope="corpus", **options)
    first = group(grouping, features(), seed=7, bert=cache)
    few = features((1, 4, 6))
    second = group(grouping, few, seed=8, bert=cache)
    assert sizes == [(2 * PAIRS * CAPTIONS, COUNT, 7)]
    assert torch.equal(second.image.labels, first.image.labels[few.positions])  # a cluster keeps its number
    assert len(second.image.prototypes) == len(first.image.prototypes) == COUNT


def test_rows_of_unreadable_pairs_take_no_prototype_of_the_corpus(cache: Cache) -> None:
    given = features()
    unread = np.setdiff1d(np.arange(len(cache.groups)), cache.row_numbers(given.indices, given.captions).numpy())
    cache.features = np.array(cache.features)
    cache.features[unread] = 0
    found = group(TeacherClusters("bert", scope="corpus", cluster=KMeans(**BACKEND)), given, bert=cache)
    assert same_partition(found.image.labels, expected_groups(cache, given))


def test_the_corpus_clusters_survive_a_checkpoint(cache: Cache) -> None:
    before = TeacherClusters("bert", scope="corpus", cluster=KMeans(**BACKEND))
    assert before.state_dict() == {}
    first = group(before, features(), seed=7, bert=cache)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after = TeacherClusters("bert", scope="corpus", cluster=KMeans(**BACKEND))
    after.load_state_dict(torch.load(file, weights_only=True))
    assert_same(group(after, features(), seed=8, bert=cache), first)
    after.load_state_dict({})
    other = group(after, features(), seed=11, bert=cache)
    assert not torch.equal(other.image.labels, first.image.labels)  # other numbers: clustered anew


def test_groupings_keep_nothing_else(cache: Cache) -> None:
    for grouping in (StudentClusters(cluster=KMeans(**BACKEND)), TeacherClusters("bert", cluster=KMeans(**BACKEND))):
        group(grouping, features(), bert=cache)
        assert grouping.state_dict() == {}
        grouping.load_state_dict({})


def test_refuses_another_scope() -> None:
    unknown: Any = "batch"
    with pytest.raises(ValueError, match=r"teacher\.scope is episode or corpus, not 'batch'"):
        TeacherClusters("bert", scope=unknown)
