"""K-means on the features of an episode, by FAISS or by torch, behind one function."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from protoclip.ranges import NonNegativeInt, PositiveInt

BLOCK_ELEMENTS = 2**25
"""Distances held at once by the torch back-end."""

SPLIT = 1 / 1024
"""Relative step by which a large cluster is split to fill an empty one (FAISS' value)."""


class Clusters(NamedTuple):
    """Result of K-means."""

    centroids: Tensor
    """[num_clusters, dim], finite, on the features' device."""
    labels: Tensor
    """Nearest centroid of every sample [samples], int64."""
    counts: Tensor
    """Samples of each cluster [num_clusters], int64; 0 = empty."""
    objective: list[float]
    """Sum of squared distances at each iteration of the best redo."""


def kmeans(
    features: Tensor,
    num_clusters: int,
    *,
    iterations: int = 20,
    redo: int = 1,
    seed: int = 0,
    backend: str = "faiss",
    device: str = "cpu",
    init: Tensor | None = None,
    max_points_per_cluster: int | None = None,
) -> Clusters:
    """Euclidean K-means; centroids are means and are not re-normalised.

    Args:
        features: [samples, dim], finite.
        num_clusters: K, at most the number of samples.
        iterations: Lloyd iterations; 0 takes K random samples as centroids (ProtoCLIP's ablation without K-means).
        redo: runs from different starts; the one with the lowest objective is kept.
        seed: of the starts (and of the sub-sample).
        backend: ``faiss`` or ``torch``.
        device: where the clustering is computed.
        init: first centroids [num_clusters, dim], instead of random samples.
        max_points_per_cluster: fit on a random sub-sample of at most this many per cluster; None fits on all. Labels
            are those of all samples in either case.

    Returns:
        Clusters, on the device of ``features``.

    Raises:
        ValueError: more clusters than samples, features that are not finite, an unknown back-end, or FAISS asked to run
            on a device its build does not have.
    """
    if not 1 <= num_clusters <= len(features):
        raise ValueError(f"num_clusters is between 1 and the {len(features)} samples, not {num_clusters}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("K-means needs finite features: the towers gave NaN or infinity")
    _check_options(iterations, redo, backend, device, max_points_per_cluster)
    if init is not None and init.shape != (num_clusters, features.shape[1]):
        raise ValueError(f"init is [{num_clusters}, {features.shape[1]}], not {list(init.shape)}")
    points = features.detach().to(device=device, dtype=torch.float32).contiguous()
    generator = torch.Generator().manual_seed(seed)
    training = _subsample(points, num_clusters, max_points_per_cluster, generator)
    runs = [_start(training, num_clusters, seed + run, init) for run in range(redo)]
    centroids, objective = BACKENDS[backend](training, runs, iterations) if iterations else (runs[0], [])
    labels, _ = _nearest(points, centroids)
    counts = torch.bincount(labels, minlength=num_clusters)
    home = features.device
    return Clusters(centroids.to(home, features.dtype), labels.to(home), counts.to(home), objective)


class KMeans:
    """:func:`kmeans` with its options bound, which are checked at once and not after the first episode.

    Args:
        iterations: Lloyd iterations.
        redo: runs from different starts.
        backend: ``faiss`` or ``torch``.
        device: where the clustering is computed.
        max_points_per_cluster: size of the sub-sample that is fitted on; None for all.

    Raises:
        ValueError: as :func:`kmeans`.
    """

    def __init__(
        self,
        *,
        iterations: NonNegativeInt = 20,
        redo: PositiveInt = 1,
        backend: Literal["faiss", "torch"] = "faiss",
        device: str = "cpu",
        max_points_per_cluster: PositiveInt | None = None,
    ) -> None:
        _check_options(iterations, redo, backend, device, max_points_per_cluster)
        self.options: dict[str, Any] = {
            "iterations": iterations,
            "redo": redo,
            "backend": backend,
            "device": device,
            "max_points_per_cluster": max_points_per_cluster,
        }

    def __call__(self, features: Tensor, num_clusters: int, *, seed: int = 0) -> Clusters:
        """Cluster features [samples, dim] into ``num_clusters``."""
        return kmeans(features, num_clusters, seed=seed, **self.options)


def _check_options(iterations: int, redo: int, backend: str, device: str, max_points_per_cluster: int | None) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend is one of {', '.join(BACKENDS)}, not {backend!r}")
    if iterations < 0 or redo < 1 or (max_points_per_cluster is not None and max_points_per_cluster < 1):
        raise ValueError("iterations is 0 or more; redo and max_points_per_cluster are 1 or more")
    _check_device(device, backend)


def _check_device(device: str, backend: str) -> None:
    if backend == "faiss" and device.startswith("cuda"):
        import faiss  # noqa: PLC0415 - a tenth of a second that a run without prototypes need not pay

        if not getattr(faiss, "get_num_gpus", lambda: 0)():
            raise ValueError(
                "this FAISS build has no GPU: set prototype.kmeans.backend=torch, or prototype.kmeans.device=cpu"
            )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # which of the two depends on torch's build
        raise ValueError(f"torch has no device {device!r} here: set prototype.kmeans.device=cpu") from error


def _subsample(points: Tensor, num_clusters: int, limit: int | None, generator: torch.Generator) -> Tensor:
    if limit is None or len(points) <= limit * num_clusters:
        return points
    return points[torch.randperm(len(points), generator=generator)[: limit * num_clusters].to(points.device)]


def _start(points: Tensor, num_clusters: int, seed: int, init: Tensor | None) -> Tensor:
    if init is not None:
        return init.detach().to(points)
    picks = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:num_clusters]
    return points[picks.to(points.device)]


def _faiss(points: Tensor, starts: list[Tensor], iterations: int) -> tuple[Tensor, list[float]]:
    import faiss  # noqa: PLC0415 - a tenth of a second that a run without prototypes need not pay

    gpu = points.device.type == "cuda"
    center = points.mean(dim=0)
    array = (points - center).cpu().numpy()
    runs = []
    for start in starts:
        clustering = faiss.Kmeans(
            points.shape[1],
            len(start),
            niter=iterations,
            gpu=gpu,
            min_points_per_centroid=1,
            max_points_per_centroid=len(points),  # FAISS' own default silently drops all beyond 256 a cluster
        )
        clustering.train(array, init_centroids=(start - center).cpu().numpy())
        centroids = torch.from_numpy(np.asarray(clustering.centroids)).to(points.device) + center
        runs.append((centroids, [float(value) for value in np.asarray(clustering.obj)]))
    return min(runs, key=lambda run: run[1][-1])


def _torch(points: Tensor, starts: list[Tensor], iterations: int) -> tuple[Tensor, list[float]]:
    return min((_lloyd(points, start, iterations) for start in starts), key=lambda run: run[1][-1])


def _lloyd(points: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, list[float]]:
    objective: list[float] = []
    for _ in range(iterations):
        labels, distances = _nearest(points, centroids)
        objective.append(float(distances.double().sum()))
        counts = torch.bincount(labels, minlength=len(centroids))
        sums = torch.zeros_like(centroids).index_add_(0, labels, points)
        centroids = _split_largest(sums / counts.clamp(min=1)[:, None].to(sums.dtype), counts)
    return centroids, objective


def _split_largest(centroids: Tensor, counts: Tensor) -> Tensor:
    """Give each empty cluster one half of a large one."""
    empty = (counts == 0).nonzero().squeeze(1)
    if not len(empty):
        return centroids
    donors = counts.argsort(descending=True, stable=True)[: len(empty)]
    donors = donors[counts[donors] > 1]
    empty = empty[: len(donors)]
    signs = torch.ones(centroids.shape[1], device=centroids.device, dtype=centroids.dtype)
    signs[1::2] = -1
    centroids = centroids.clone()
    centroids[empty] = centroids[donors] * (1 + SPLIT * signs)
    centroids[donors] = centroids[donors] * (1 - SPLIT * signs)
    return centroids


def _nearest(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid and squared distance of each point, in blocks of bounded memory.

    Seen from the centroids' mean: features in a narrow cone, as fresh heads give them, would lose their distances to
    the cancellation in |x|^2 - 2 x c + |c|^2.
    """
    center = centroids.mean(dim=0)
    centroids = centroids - center
    norms = centroids.square().sum(dim=1)
    labels, distances = [], []
    for block in torch.split(points, max(1, BLOCK_ELEMENTS // len(centroids))):
        block = block - center  # noqa: PLW2901
        squared = torch.addmm(norms, block, centroids.T, alpha=-2)
        lowest, label = squared.min(dim=1)
        labels.append(label)
        distances.append((lowest + block.square().sum(dim=1)).clamp(min=0))
    return torch.cat(labels), torch.cat(distances)


_Backend = Callable[[Tensor, list[Tensor], int], tuple[Tensor, list[float]]]
BACKENDS: dict[str, _Backend] = {"faiss": _faiss, "torch": _torch}
