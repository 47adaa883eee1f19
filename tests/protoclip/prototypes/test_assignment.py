"""Who teaches whom: sources, controls and back translation."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from protoclip.prototypes import Clusters, assign_prototypes, back_translate, kmeans
from protoclip.prototypes.assignment import labelled_clusters, translate_clusters

COUNT, SAMPLES, DIM = 3, 60, 4
torch_kmeans = partial(kmeans, backend="torch", iterations=10, redo=5)


def grouped(groups: Tensor, seed: int) -> Tensor:
    """Features around one far corner per group."""
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(COUNT, DIM)[groups] + 0.05 * torch.randn(len(groups), DIM, generator=generator)


IMAGE_GROUPS = torch.arange(SAMPLES) % 3
TEXT_GROUPS = torch.arange(SAMPLES) // 20
IMAGE, TEXT = grouped(IMAGE_GROUPS, 0), grouped(TEXT_GROUPS, 1)


def same_partition(labels: Tensor, groups: Tensor) -> bool:
    pairs = set(zip(labels.tolist(), groups.tolist(), strict=True))
    return len(pairs) == len(set(labels.tolist())) == len(set(groups.tolist()))


@pytest.mark.parametrize(
    ("source", "of_image", "of_text"), [("cross", TEXT_GROUPS, IMAGE_GROUPS), ("same", IMAGE_GROUPS, TEXT_GROUPS)]
)
def test_source_decides_whose_clusters_supervise(source: str, of_image: Tensor, of_text: Tensor) -> None:
    found = assign_prototypes(IMAGE, TEXT, COUNT, source=source, cluster=torch_kmeans)
    assert same_partition(found.image.labels, of_image)
    assert same_partition(found.text.labels, of_text)
    assert set(found.clusters) == {"image", "text"}
    teachers = {"cross": (TEXT, IMAGE), "same": (IMAGE, TEXT)}[source]
    for side, student, teacher in zip((found.image, found.text), (IMAGE, TEXT), teachers, strict=True):
        torch.testing.assert_close(side.prototypes, back_translate(student, side.labels, COUNT))
        torch.testing.assert_close(side.centroids, back_translate(teacher, side.labels, COUNT))
        assert torch.equal(side.counts, torch.bincount(side.labels, minlength=COUNT))


def test_joint_clusters_both_at_once() -> None:
    found = assign_prototypes(IMAGE, TEXT, 9, source="joint", cluster=partial(torch_kmeans, redo=20))
    assert set(found.clusters) == {"joint"}
    assert torch.equal(found.image.labels, found.text.labels)
    assert same_partition(found.image.labels, IMAGE_GROUPS * 3 + TEXT_GROUPS)
    assert found.image.centroids.shape == (9, 2 * DIM)
    torch.testing.assert_close(found.image.prototypes, back_translate(IMAGE, found.image.labels, 9))
    torch.testing.assert_close(found.text.prototypes, back_translate(TEXT, found.text.labels, 9))
    both = torch.cat([IMAGE, TEXT], dim=1) / 2**0.5  # unit length where both halves have it
    torch.testing.assert_close(found.text.centroids, back_translate(both, found.text.labels, 9))


def test_empty_clusters_are_zero_prototypes() -> None:
    def lazy(features: Tensor, num_clusters: int, **_: Any) -> Clusters:
        labels = torch.zeros(len(features), dtype=torch.int64)
        return Clusters(features[:num_clusters], labels, torch.bincount(labels, minlength=num_clusters), [])

    found = assign_prototypes(IMAGE, TEXT, COUNT, cluster=lazy)
    assert found.image.counts.tolist() == [SAMPLES, 0, 0]
    assert found.image.prototypes.shape == (COUNT, DIM)
    assert not bool(found.image.prototypes[1:].any())


def test_shuffled_keeps_sizes_and_loses_the_grouping() -> None:
    options: dict[str, Any] = {"cluster": torch_kmeans, "seed": 4}
    uneven = grouped((torch.arange(SAMPLES) > 9).long() + (torch.arange(SAMPLES) > 29).long(), 2)
    real = assign_prototypes(IMAGE, uneven, COUNT, **options)
    shuffled = assign_prototypes(IMAGE, uneven, COUNT, labels="shuffled", **options)
    for name in ("image", "text"):
        before, after = getattr(real, name), getattr(shuffled, name)
        assert torch.equal(before.counts, after.counts)
        assert torch.equal(after.counts, torch.bincount(after.labels, minlength=COUNT))
        assert torch.equal(before.centroids, after.centroids)
        agreement = float((before.labels == after.labels).float().mean())
        assert agreement < 0.7
        torch.testing.assert_close(
            after.prototypes, back_translate(IMAGE if name == "image" else uneven, after.labels, COUNT)
        )
    again = assign_prototypes(IMAGE, uneven, COUNT, labels="shuffled", **options)
    assert torch.equal(shuffled.image.labels, again.image.labels)


def test_shuffles_come_from_the_seed() -> None:
    def cluster(features: Tensor, num_clusters: int, **_: int) -> Clusters:
        return torch_kmeans(features, num_clusters, seed=0)

    drawn = [
        assign_prototypes(IMAGE, TEXT, COUNT, labels="shuffled", cluster=cluster, seed=seed).image.labels
        for seed in (4, 5, 4)
    ]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_shuffles_of_the_modalities_are_independent() -> None:
    shuffled = assign_prototypes(IMAGE, IMAGE, COUNT, labels="shuffled", cluster=torch_kmeans, source="same")
    assert not same_partition(shuffled.image.labels, shuffled.text.labels)


def test_oracle_takes_the_classes_of_the_corpus() -> None:
    classes = (torch.arange(SAMPLES) * 7) % 5

    def never(*_: Any, **__: Any) -> Clusters:
        raise AssertionError("oracle labels need no clustering")

    found = assign_prototypes(IMAGE, TEXT, 6, labels="oracle", true_labels=classes, cluster=never)
    for side, student, teacher in ((found.image, IMAGE, TEXT), (found.text, TEXT, IMAGE)):
        assert torch.equal(side.labels, classes)
        assert side.counts.tolist() == [12, 12, 12, 12, 12, 0]
        torch.testing.assert_close(side.prototypes, back_translate(student, classes, 6))
        torch.testing.assert_close(side.centroids, back_translate(teacher, classes, 6))


@pytest.mark.parametrize("source", ["cross", "same"])
def test_without_back_translation_the_teachers_centroids_are_the_prototypes(source: str) -> None:
    found = assign_prototypes(IMAGE, TEXT, COUNT, source=source, back_translation=False, cluster=torch_kmeans)
    for side in (found.image, found.text):
        assert torch.equal(side.prototypes, side.centroids)
    assert same_partition(found.image.labels, TEXT_GROUPS if source == "cross" else IMAGE_GROUPS)


def test_seeds_reach_the_clusterings() -> None:
    seeds: list[int] = []

    def spy(features: Tensor, num_clusters: int, *, seed: int) -> Clusters:
        seeds.append(seed)
        return torch_kmeans(features, num_clusters, seed=seed)

    for seed in (100, 200):
        assign_prototypes(IMAGE, TEXT, COUNT, cluster=spy, seed=seed)
    assert len(set(seeds)) == 4  # an own start for each modality and episode


def test_phases_are_timed() -> None:
    log: list[str] = []

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        log.append(f"begin {name}")
        yield
        log.append(f"end {name}")

    def spy(*args: Any, **options: Any) -> Clusters:
        log.append("kmeans")
        return torch_kmeans(*args, **options)

    assign_prototypes(IMAGE, TEXT, COUNT, cluster=spy, phase=phase)
    expected = ["begin clustering", "kmeans", "kmeans", "end clustering", "begin back_translation"]
    assert log == [*expected, "end back_translation"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "random"}, "prototype.labels is one of kmeans, shuffled, oracle"),
        ({"source": "both"}, "prototype.source is one of cross, same, joint"),
        ({"source": "joint", "back_translation": False}, "prototype.back_translation=true"),
        ({"labels": "oracle"}, "prototype.labels=oracle needs a class"),
        ({"labels": "oracle", "true_labels": torch.full((SAMPLES,), -1)}, r"in \[0, 3\)"),
        ({"labels": "oracle", "true_labels": torch.full((SAMPLES,), 3)}, r"in \[0, 3\)"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        assign_prototypes(IMAGE, TEXT, COUNT, cluster=torch_kmeans, **options)
    assert "\n" not in str(caught.value)


def test_widths_must_be_equal_without_back_translation() -> None:
    with pytest.raises(ValueError, match="widths"):
        assign_prototypes(IMAGE, TEXT[:, :3], COUNT, back_translation=False, cluster=torch_kmeans)


def test_a_known_grouping_as_clusters() -> None:
    labels = torch.tensor([2, 0, 2])
    found = labelled_clusters(torch.tensor([[1.0, 0.0], [0.0, 4.0], [3.0, 2.0]]), labels, 4)
    assert found.centroids.tolist() == [[0.0, 4.0], [0.0, 0.0], [2.0, 1.0], [0.0, 0.0]]
    assert found.counts.tolist() == [1, 0, 2, 0]
    assert torch.equal(found.labels, labels)
    assert found.objective == []


def test_one_clustering_of_a_teacher_supervises_both_modalities() -> None:
    teacher = torch.randn(SAMPLES, 7, generator=torch.Generator().manual_seed(8))
    clusters = {"bert": labelled_clusters(teacher, TEXT_GROUPS, 5)}
    found = translate_clusters(IMAGE, TEXT, clusters)
    assert found.clusters == clusters
    for side, student in ((found.image, IMAGE), (found.text, TEXT)):
        assert torch.equal(side.labels, TEXT_GROUPS)
        torch.testing.assert_close(side.prototypes, back_translate(student, TEXT_GROUPS, 5))
        torch.testing.assert_close(side.centroids, back_translate(teacher, TEXT_GROUPS, 5))
        assert side.counts.tolist() == [20, 20, 20, 0, 0]
