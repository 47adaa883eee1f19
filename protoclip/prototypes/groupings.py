"""Who decides which pairs of an episode share a prototype: the student's own clusters, or an external teacher's."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from protoclip.prototypes.assignment import Phase, Prototypes, assign_prototypes, labelled_clusters, translate_clusters
from protoclip.prototypes.kmeans import KMeans
from protoclip.teachers import TeacherCache


@dataclass(frozen=True)
class EpisodeFeatures:
    """Projected features of pairs of an episode, all of them or those that take part."""

    image: Tensor
    """h_I [samples, dim], float32, unit length, on the CPU."""
    text: Tensor
    """h_T [samples, dim]."""
    indices: Tensor
    """Each pair's place in the corpus [samples]."""
    captions: Tensor
    """Which of its captions was drawn [samples]."""
    classes: Tensor
    """The pair's class, -1 where the corpus has none [samples]."""
    positions: Tensor
    """Its place in the episode [samples]."""
    episode_size: int
    """Pairs of the episode."""

    def joined(self, other: "EpisodeFeatures") -> "EpisodeFeatures":
        """The samples of both, in the order of the positions."""
        order = torch.cat([self.positions, other.positions]).argsort()
        columns = ("image", "text", "indices", "captions", "classes", "positions")
        joined = {name: torch.cat([getattr(self, name), getattr(other, name)])[order] for name in columns}
        return EpisodeFeatures(**joined, episode_size=self.episode_size)

    def share_of(self, num_prototypes: int) -> int:
        """As many of K prototypes as samples there are of the episode's pairs, at least one."""
        return max(1, round(num_prototypes * len(self.positions) / self.episode_size))


class Grouping(ABC):
    """From the features of an episode to the prototypes of one term."""

    @abstractmethod
    def __call__(
        self,
        features: EpisodeFeatures,
        num_prototypes: int,
        *,
        teachers: Mapping[str, TeacherCache],
        seed: int,
        phase: Phase,
    ) -> Prototypes:
        """Group the samples and translate the groups into both students' spaces.

        Args:
            features: of the episode.
            num_prototypes: K for a whole episode.
            teachers: caches of the corpus by name.
            seed: of this episode's clusterings.
            phase: context manager that times ``clustering`` and ``back_translation``.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the same way."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most keep nothing
        """Go on after ``state_dict``."""


class StudentClusters(Grouping):
    """K-means on the student's own features, see ``assign_prototypes`` (ProtoCLIP, III-A to III-C).

    Args:
        labels: ``kmeans``, ``shuffled`` or ``oracle``.
        source: ``cross``, ``same`` or ``joint``.
        back_translation: PBT, or the teacher's centroids as they are.
        cluster: K-means with its options.
    """

    def __init__(
        self,
        *,
        labels: Literal["kmeans", "shuffled", "oracle"] = "kmeans",
        source: Literal["cross", "same", "joint"] = "cross",
        back_translation: bool = True,
        cluster: KMeans | None = None,
    ) -> None:
        self.labels = labels
        self.source = source
        self.back_translation = back_translation
        self.cluster = cluster or KMeans()

    def __call__(  # noqa: D102
        self,
        features: EpisodeFeatures,
        num_prototypes: int,
        *,
        teachers: Mapping[str, TeacherCache],
        seed: int,
        phase: Phase,
    ) -> Prototypes:
        return assign_prototypes(
            features.image,
            features.text,
            num_prototypes if self.labels == "oracle" else features.share_of(num_prototypes),
            labels=self.labels,
            source=self.source,
            back_translation=self.back_translation,
            true_labels=features.classes,
            cluster=self.cluster,
            seed=seed,
            phase=phase,
        )


class TeacherClusters(Grouping):
    """K-means on an external teacher's features, back-translated into both students' spaces (ProtoCLIP, III-E).

    Args:
        teacher: name of the teacher.
        scope: ``episode`` clusters the teacher's features of each episode's pairs (the authors' code); ``corpus``
            clusters the whole cache once, into as many prototypes.
        cluster: K-means with its options.

    Raises:
        ValueError: an unknown scope.
    """

    def __init__(
        self, teacher: str, *, scope: Literal["episode", "corpus"] = "episode", cluster: KMeans | None = None
    ) -> None:
        if scope not in {"episode", "corpus"}:
            raise ValueError(f"teacher.scope is episode or corpus, not {scope!r}")
        self.teacher = teacher
        self.scope = scope
        self.cluster = cluster or KMeans()
        self._row_labels: Tensor | None = None

    def __call__(  # noqa: D102
        self,
        features: EpisodeFeatures,
        num_prototypes: int,
        *,
        teachers: Mapping[str, TeacherCache],
        seed: int,
        phase: Phase,
    ) -> Prototypes:
        cache = teachers[self.teacher]
        with phase("clustering"):
            teacher_features = cache.rows(features.indices, features.captions)
            if self.scope == "episode":
                clusters = self.cluster(teacher_features, features.share_of(num_prototypes), seed=seed)
            else:
                if self._row_labels is None:
                    everything = torch.tensor(cache.features)
                    read = everything.any(1)  # unreadable pairs are zeros, and would take a prototype of their own
                    self._row_labels = torch.zeros(len(everything), dtype=torch.long)
                    self._row_labels[read] = self.cluster(everything[read], num_prototypes, seed=seed).labels
                labels = self._row_labels[cache.row_numbers(features.indices, features.captions)].long()
                clusters = labelled_clusters(teacher_features, labels, num_prototypes)
        with phase("back_translation"):
            return translate_clusters(features.image, features.text, {self.teacher: clusters})

    def state_dict(self) -> dict[str, Any]:
        """The corpus' labels, once they are there."""
        return {} if self._row_labels is None else {"row_labels": self._row_labels.int()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these labels."""
        self._row_labels = state.get("row_labels")
