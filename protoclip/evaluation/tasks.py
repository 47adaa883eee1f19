"""Evaluation tasks: which features of which picture sets go into which metric.

A picture set is extracted once, whatever the number of tasks that look at it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from protoclip.evaluation.clustering import cluster_metrics
from protoclip.evaluation.knn import knn_accuracy
from protoclip.evaluation.linear_probe import linear_probe
from protoclip.evaluation.pseudo_labels import pseudo_label_quality
from protoclip.evaluation.representation import feature_std, modality_gap, self_similarity
from protoclip.evaluation.retrieval import retrieval_metrics
from protoclip.evaluation.zero_shot import Direction, token_zero_shot_metrics, zero_shot_metrics
from protoclip.prototypes import kmeans


@dataclass(frozen=True)
class Extracted:
    """Features of a picture set.

    Attributes:
        image: outputs of the image tower and heads by name, [pictures, ...].
        labels: classes [pictures], -1 where there are none.
        text: outputs of the text tower and heads for all captions, in the order of the pictures; empty without.
        owner: each caption's picture [captions].
        class_features: unit vectors [classes, dim] from the prompts, for labelled sets.
        prompts: outputs of the text tower and heads for the prompts, [classes, templates, ...], that a task asks for.
        prompts_hash: hash of class names and templates.
    """

    image: Mapping[str, Tensor]
    labels: Tensor
    text: Mapping[str, Tensor] = field(default_factory=dict)
    owner: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    class_features: Tensor | None = None
    prompts: Mapping[str, Tensor] = field(default_factory=dict)
    prompts_hash: str | None = None


Sets = Mapping[str, Extracted]


class Task(ABC):
    """One row of results.

    Args:
        pictures: name of the picture set that is scored.
        train: name of the labelled set that a classifier is fitted on.
    """

    output = "features"
    """Output of the image tower that is needed; a set that lacks it skips the task."""
    prompt_outputs: tuple[str, ...] = ()
    """Outputs of the text tower for the prompts that are needed beside the class features."""

    def __init__(self, pictures: str, train: str | None = None) -> None:
        self.pictures = pictures
        self.train = train

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the picture sets."""
        return (self.pictures,) if self.train is None else (self.pictures, self.train)

    def applies(self, sets: Sets) -> bool:
        """Whether the model has what the task looks at."""
        return self.output in sets[self.pictures].image

    @abstractmethod
    def __call__(self, sets: Sets) -> dict[str, float]:
        """Metrics by name."""

    def fitted_on(self, sets: Sets) -> Extracted:
        """Features of the training split."""
        if self.train is None:
            raise ValueError(f"{type(self).__name__} on {self.pictures} needs train: the set it is fitted on")
        return sets[self.train]


class ZeroShot(Task):
    """Zero-shot classification by prompts."""

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        if found.class_features is None:
            raise ValueError(f"zero-shot on {self.pictures} needs a set with class names")
        return zero_shot_metrics(found.image["features"], found.class_features, found.labels)


class TokenZeroShot(Task):
    """Zero-shot classification by prompts, each token of one side compared with those of the other (FILIP).

    Args:
        pictures: a set with class names.
        head: name of the heads that give tokens.
        direction: whose tokens find their best: the picture's, or the mean of both.
    """

    def __init__(self, pictures: str, head: str, direction: Direction = "image_to_text") -> None:
        super().__init__(pictures)
        self.output = head
        self.prompt_outputs = (head, "token_mask")
        self.direction = direction

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        if not found.prompts:
            raise ValueError(f"zero-shot on {self.pictures} needs a set with class names")
        images, prompts = found.image[self.output], found.prompts[self.output]
        mask = found.prompts["token_mask"]
        return token_zero_shot_metrics(images, prompts, mask, found.labels, direction=self.direction)


class Retrieval(Task):
    """Image-text retrieval, with modality gap, self-similarity and spread of the same features."""

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        if not found.text:
            raise ValueError(f"retrieval on {self.pictures} needs a set with captions")
        images, texts = found.image["features"], found.text["features"]
        first = torch.searchsorted(found.owner, torch.arange(len(images)))
        return retrieval_metrics(images, texts, found.owner) | {
            "modality_gap": modality_gap(images, texts[first]),
            "image_self_similarity": self_similarity(images),
            "text_self_similarity": self_similarity(texts[first]),
            "image_feature_std": feature_std(images),
            "text_feature_std": feature_std(texts[first]),
        }


class KNN(Task):
    """Weighted nearest neighbours on unit features."""

    def __init__(self, pictures: str, train: str, k: int = 20, temperature: float = 0.07) -> None:
        super().__init__(pictures, train)
        self.k = k
        self.temperature = temperature

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        train, test = self.fitted_on(sets), sets[self.pictures]
        features = (train.image["features"], train.labels, test.image["features"], test.labels)
        return {"top1": knn_accuracy(*features, k=self.k, temperature=self.temperature)}


class LinearProbe(Task):
    """Logistic regression on the raw embedding."""

    def __init__(self, pictures: str, train: str, C: float | Literal["sweep"] = "sweep", max_iter: int = 1000) -> None:  # noqa: N803 - scikit-learn's name
        super().__init__(pictures, train)
        self.C = C
        self.max_iter = max_iter

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        train, test = self.fitted_on(sets), sets[self.pictures]
        data = (train.image["embedding"], train.labels, test.image["embedding"], test.labels)
        return linear_probe(*data, C=self.C, max_iter=self.max_iter)


class Clustering(Task):
    """K-means on unit features against the classes."""

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        return cluster_metrics(found.image["features"], found.labels)


class PseudoLabels(Task):
    """Quality of K-means labels on the projected features of a pair set, per modality.

    Args:
        pictures: a set of pairs.
        head: name of the projection heads.
        images_per_prototype: pictures over clusters.
    """

    def __init__(self, pictures: str, head: str = "prototype", images_per_prototype: float = 10) -> None:
        super().__init__(pictures)
        self.output = head
        self.images_per_prototype = images_per_prototype

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        if not found.text:
            raise ValueError(f"pseudo labels on {self.pictures} need a set with captions")
        first = torch.searchsorted(found.owner, torch.arange(len(found.labels)))
        features = {"image": found.image[self.output], "text": found.text[self.output][first]}
        true_labels = found.labels if bool((found.labels >= 0).all()) else None
        clusters = max(2, round(len(found.labels) / self.images_per_prototype))
        return {
            f"{modality}_{name}": value
            for modality, projected in features.items()
            for name, value in pseudo_label_quality(
                projected, kmeans(projected, clusters).labels, true_labels=true_labels
            ).items()
        }
