"""From the projected features of an episode to the prototypes that supervise each modality."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from protoclip.prototypes.back_translation import back_translate
from protoclip.prototypes.kmeans import Clusters, kmeans

LABELS = ("kmeans", "shuffled", "oracle")
SOURCES = ("cross", "same", "joint")
Phase = Callable[[str], AbstractContextManager[object]]


class Assignment(NamedTuple):
    """Supervision of one modality: its fields are the buffers of a ``PrototypeSide``."""

    labels: Tensor
    """Teacher's cluster of each pair of the episode [samples]."""
    prototypes: Tensor
    """Prototypes in the student's space [num_prototypes, dim]."""
    centroids: Tensor
    """The teacher's own centroids [num_prototypes, teacher_dim], for soft targets."""
    counts: Tensor
    """Pairs of each prototype [num_prototypes]."""


class Prototypes(NamedTuple):
    """Supervision of both modalities, and the clusterings it came from by modality."""

    image: Assignment
    text: Assignment
    clusters: dict[str, Clusters]


def assign_prototypes(
    image_features: Tensor,
    text_features: Tensor,
    num_prototypes: int,
    *,
    labels: str = "kmeans",
    source: str = "cross",
    back_translation: bool = True,
    true_labels: Tensor | None = None,
    cluster: Callable[..., Clusters] = kmeans,
    seed: int = 0,
    phase: Phase = lambda _: nullcontext(),
) -> Prototypes:
    """Cluster the projected features and translate the clusters into each student's space (ProtoCLIP, III-A to III-C).

    Args:
        image_features: projected image features h_I [samples, dim], unit length.
        text_features: projected text features h_T [samples, dim].
        num_prototypes: K of each clustering.
        labels: ``kmeans``; the controls ``shuffled`` (K-means labels in random order) and ``oracle`` (``true_labels``).
        source: whose clusters supervise a modality: ``cross`` the other's (the paper), ``same`` its own, ``joint``
            those of the two features concatenated.
        back_translation: means of the student's features (PBT), or the teacher's centroids as they are.
        true_labels: classes of the pairs [samples], for ``oracle``.
        cluster: ``kmeans`` with its options bound.
        seed: of this episode's clusterings and shuffles.
        phase: context manager that times ``clustering`` and ``back_translation``.

    Raises:
        ValueError: an unknown option, oracle labels that are missing or out of range, or no back translation where the
            teacher's space is not the student's.
    """
    _check(labels, source, back_translation, true_labels, num_prototypes)
    students = {"image": image_features, "text": text_features}
    with phase("clustering"):
        teachers = _teachers(students, source)
        if labels == "oracle":
            assert true_labels is not None
            clusters = {name: _oracle(teacher, true_labels, num_prototypes) for name, teacher in teachers.items()}
        else:
            clusters = {
                name: cluster(teacher, num_prototypes, seed=seed + offset)
                for offset, (name, teacher) in enumerate(teachers.items())
            }
    if labels == "shuffled":
        clusters = {name: _shuffle(found, seed + offset) for offset, (name, found) in enumerate(clusters.items())}
    with phase("back_translation"):
        sides = {
            name: _side(student, clusters[_teacher_of(name, source)], back_translation)
            for name, student in students.items()
        }
    return Prototypes(sides["image"], sides["text"], clusters)


def translate_clusters(image_features: Tensor, text_features: Tensor, clusters: dict[str, Clusters]) -> Prototypes:
    """Prototypes of both modalities from the one clustering of an external teacher, by back translation.

    Args:
        image_features: projected image features h_I [samples, dim].
        text_features: projected text features h_T [samples, dim].
        clusters: the teacher's clustering of the same samples, by the teacher's name.
    """
    (found,) = clusters.values()
    return Prototypes(_side(image_features, found, True), _side(text_features, found, True), clusters)


def labelled_clusters(features: Tensor, labels: Tensor, count: int) -> Clusters:
    """The clusters of samples whose labels are known; centroids are their means.

    Args:
        features: [samples, dim].
        labels: [samples], in [0, count).
        count: number of clusters, empty ones included.
    """
    return Clusters(back_translate(features, labels, count), labels, torch.bincount(labels, minlength=count), [])


def _check(labels: str, source: str, back_translation: bool, true_labels: Tensor | None, num_prototypes: int) -> None:
    if labels not in LABELS:
        raise ValueError(f"prototype.labels is one of {', '.join(LABELS)}, not {labels!r}")
    if source not in SOURCES:
        raise ValueError(f"prototype.source is one of {', '.join(SOURCES)}, not {source!r}")
    if source == "joint" and not back_translation:
        raise ValueError("prototype.source=joint clusters a third space: set prototype.back_translation=true")
    if labels == "oracle" and (
        true_labels is None or bool((true_labels < 0).any()) or bool((true_labels >= num_prototypes).any())
    ):
        raise ValueError(
            f"prototype.labels=oracle needs a class in [0, {num_prototypes}) for every pair: "
            "use a corpus with classes, and set prototype.num_prototypes to their number"
        )


def _teachers(students: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    if source == "joint":
        return {"joint": torch.cat([students["image"], students["text"]], dim=1) * 0.5**0.5}
    return students


def _teacher_of(student: str, source: str) -> str:
    return {"cross": {"image": "text", "text": "image"}[student], "same": student, "joint": "joint"}[source]


def _oracle(features: Tensor, true_labels: Tensor, num_prototypes: int) -> Clusters:
    return labelled_clusters(features, true_labels, num_prototypes)


def _shuffle(clusters: Clusters, seed: int) -> Clusters:
    order = torch.randperm(len(clusters.labels), generator=torch.Generator().manual_seed(seed))
    return clusters._replace(labels=clusters.labels[order.to(clusters.labels.device)])


def _side(student: Tensor, teacher: Clusters, back_translation: bool) -> Assignment:
    if back_translation:
        prototypes = back_translate(student, teacher.labels, len(teacher.counts))
    elif student.shape[1] == teacher.centroids.shape[1]:
        prototypes = teacher.centroids
    else:
        raise ValueError("without back translation the teacher's and the student's widths must be equal")
    return Assignment(teacher.labels, prototypes, teacher.centroids, teacher.counts)
