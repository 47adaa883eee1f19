"""Clustering evaluation: K-means on the test features against their labels (ProtoCLIP, Table XII)."""

import numpy as np
from torch import Tensor

from protoclip.evaluation.checks import checked_features, checked_labels
from protoclip.evaluation.ranking import normalised
from protoclip.evaluation.task import Sets, Task
from protoclip.prototypes import kmeans
from protoclip.ranges import NonNegativeInt, PositiveInt


def cluster_metrics(
    features: Tensor,
    labels: Tensor,
    *,
    num_clusters: int | None = None,
    iterations: int = 100,
    redo: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Agreement of K-means clusters of the L2-normalised features with the labels.

    K-means is fitted on all points: FAISS would draw 256 per cluster by itself. The scores are scikit-learn's, because
    torchmetrics' ARI overflows at a few ten thousand points.

    Args:
        features: [samples, dim], L2-normalised here.
        labels: [samples].
        num_clusters: K; None: the number of classes that occur in ``labels``.
        iterations: K-means iterations per start.
        redo: Random starts, the best of which counts.
        seed: Draws the starts.

    Returns:
        ``ari`` and ``ami``, 1 for identical partitions and 0 on average for random ones.

    Raises:
        ValueError: If the counts differ, a label is negative, or there are fewer samples than clusters.
    """
    from sklearn import metrics  # noqa: PLC0415 - takes half a second

    features = checked_features("features", features)
    truth = checked_labels("labels", labels, features).cpu().numpy()
    num_clusters = len(np.unique(truth)) if num_clusters is None else num_clusters
    if not 1 <= num_clusters <= len(features):
        raise ValueError(f"num_clusters must lie in 1 to {len(features)}, the number of samples, got {num_clusters}")
    result = kmeans(normalised(features), num_clusters, iterations=iterations, redo=redo, seed=seed)
    clusters = result.labels.cpu().numpy()
    return {
        "ari": float(metrics.adjusted_rand_score(truth, clusters)),
        "ami": float(metrics.adjusted_mutual_info_score(truth, clusters)),
    }


class Clustering(Task):
    """K-means on unit features, with as many clusters as there are classes, against the classes.

    Args:
        pictures: a labelled set.
        iterations: of K-means per start.
        redo: random starts, the best of which counts.
        seed: draws the starts.
    """

    def __init__(self, pictures: str, iterations: NonNegativeInt = 100, redo: PositiveInt = 5, seed: int = 0) -> None:
        super().__init__(pictures)
        self.iterations = iterations
        self.redo = redo
        self.seed = seed

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        how = {"iterations": self.iterations, "redo": self.redo, "seed": self.seed}
        return cluster_metrics(found.image["features"], found.labels, **how)
