"""Quality of K-means pseudo labels on the features they were made from."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protoclip.evaluation.checks import checked_features, checked_labels
from protoclip.evaluation.task import Sets, Task
from protoclip.prototypes import kmeans
from protoclip.ranges import PositiveFloat

Array = NDArray[Any]


def pseudo_label_quality(
    features: Tensor, labels: Tensor, *, true_labels: Tensor | None = None, sample: int = 5000, seed: int = 0
) -> dict[str, float]:
    """Shape scores of a clustering, and its agreement with the true classes where there are any.

    A score that is not defined (one cluster, or a cluster for every point) is NaN.

    Args:
        features: [samples, dim] the features that were clustered, taken as they are.
        labels: [samples] cluster of each.
        true_labels: [samples] classes, -1 where unknown; those samples are left out of ``purity`` and ``nmi``.
        sample: Points that the silhouette is computed on, whose cost is quadratic.
        seed: Draws them.

    Returns:
        ``used_clusters``, ``silhouette`` (-1 to 1), ``davies_bouldin`` (0 at best), ``calinski_harabasz`` (more is
        better); with true labels ``purity`` (share of samples that are of their cluster's commonest class) and ``nmi``.

    Raises:
        ValueError: If the counts differ, a label is negative, ``sample`` is below 2, or every true label is -1.
    """
    from sklearn import metrics  # noqa: PLC0415 - takes half a second

    features = checked_features("features", features)
    clusters = checked_labels("labels", labels, features).cpu().numpy()
    if sample < 2:
        raise ValueError(f"sample must be at least 2, got {sample}")
    points = features.cpu().numpy()
    used = len(np.unique(clusters))
    chosen = np.random.default_rng(seed).permutation(len(points))[:sample]
    defined = 1 < used < len(points)
    quality = {
        "used_clusters": float(used),
        "silhouette": float(metrics.silhouette_score(points[chosen], clusters[chosen]))
        if 1 < len(np.unique(clusters[chosen])) < len(chosen)
        else float("nan"),
        "davies_bouldin": float(metrics.davies_bouldin_score(points, clusters)) if defined else float("nan"),
        "calinski_harabasz": float(metrics.calinski_harabasz_score(points, clusters)) if defined else float("nan"),
    }
    if true_labels is None:
        return quality
    truth = checked_labels("true_labels", true_labels, features, minimum=-1).cpu().numpy()
    known = truth >= 0
    if not known.any():
        raise ValueError("true_labels are all -1: leave them out where the corpus has no classes")
    return {
        **quality,
        "purity": _purity(truth[known], clusters[known]),
        "nmi": float(metrics.normalized_mutual_info_score(truth[known], clusters[known])),
    }


def cluster_purity(clusters: Tensor, labels: Tensor) -> float:
    """Share of samples that are of their cluster's commonest class.

    Args:
        clusters: of each sample [samples].
        labels: true classes [samples].
    """
    return _purity(labels.cpu().numpy(), clusters.cpu().numpy())


def _purity(truth: Array, clusters: Array) -> float:
    from sklearn.metrics.cluster import contingency_matrix  # noqa: PLC0415 - takes half a second

    table = contingency_matrix(truth, clusters, sparse=True)
    return float(table.max(axis=0).sum() / table.sum())


class PseudoLabels(Task):
    """Quality of K-means labels on the projected features of a pair set, per modality.

    Args:
        pictures: a set of pairs.
        head: name of the projection heads.
        images_per_prototype: pictures over clusters.
    """

    def __init__(self, pictures: str, head: str = "prototype", images_per_prototype: PositiveFloat = 10) -> None:
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
