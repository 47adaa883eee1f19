"""K-means: both back-ends against loops, and what FAISS' own defaults would get wrong."""

import importlib
import inspect
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import faiss
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.prototypes import Clusters, KMeans, kmeans

backends = pytest.mark.parametrize("backend", ["faiss", "torch"])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cloud(count: int, dim: int, seed: int = 0) -> Tensor:
    """Unit vectors without structure."""
    return F.normalize(normal(count, dim, seed=seed), dim=1)


def separated(clusters: int = 4, each: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around far centres, in random order, and their true clusters."""
    order = torch.randperm(clusters * each, generator=torch.Generator().manual_seed(seed))
    truth = torch.arange(clusters).repeat_interleave(each)[order]
    return 10 * torch.eye(clusters, 6)[truth] + normal(clusters * each, 6, seed=seed), truth


def inertia(points: Tensor, centroids: Tensor) -> float:
    return float(torch.cdist(points.double(), centroids.double()).square().min(dim=1).values.sum())


def lloyd_by_loops(points: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, list[float]]:
    rows, means = points.double().tolist(), centroids.double().tolist()
    objective = []
    for _ in range(iterations):
        members: list[list[list[float]]] = [[] for _ in means]
        total = 0.0
        for row in rows:
            distances = [sum((a - b) ** 2 for a, b in zip(row, mean, strict=True)) for mean in means]
            total += min(distances)
            members[distances.index(min(distances))].append(row)
        means = [[sum(column) / len(found) for column in zip(*found, strict=True)] for found in members]
        objective.append(total)
    return torch.tensor(means, dtype=torch.float64), objective


@backends
def test_hand_value(backend: str) -> None:
    points = torch.tensor([[0.0], [1.0], [10.0], [14.0]])
    found = kmeans(points, 2, init=torch.tensor([[0.0], [9.0]]), iterations=2, backend=backend)
    assert found.centroids.tolist() == [[0.5], [12.0]]
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.counts.tolist() == [2, 2]
    assert found.objective == pytest.approx([0 + 1 + 1 + 25, 0.25 + 0.25 + 4 + 4], abs=1e-4)


@backends
@pytest.mark.parametrize("iterations", [1, 3])
def test_is_lloyd_by_loops(backend: str, iterations: int) -> None:
    points = cloud(60, 5)
    found = kmeans(points, 4, init=points[:4], iterations=iterations, backend=backend)
    centroids, objective = lloyd_by_loops(points, points[:4], iterations)
    torch.testing.assert_close(found.centroids.double(), centroids, rtol=1e-5, atol=1e-6)
    assert found.objective == pytest.approx(objective, rel=1e-5)


@pytest.mark.parametrize("iterations", range(1, 6))
def test_back_ends_agree_exactly_on_separated_data(iterations: int) -> None:
    points, truth = separated()
    init = torch.stack([points[truth == cluster][0] for cluster in range(4)])
    first, second = (kmeans(points, 4, init=init, iterations=iterations, backend=name) for name in ("faiss", "torch"))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.labels, truth)
    assert torch.equal(first.counts, second.counts)
    torch.testing.assert_close(first.centroids, second.centroids, rtol=1e-6, atol=1e-6)
    shared = min(len(first.objective), len(second.objective))  # FAISS stops once it has converged
    assert first.objective[:shared] == pytest.approx(second.objective[:shared], rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_back_ends_agree_in_objective_on_a_cloud(seed: int) -> None:
    points = cloud(800, 16, seed)
    first, second = (kmeans(points, 40, iterations=10, seed=seed, backend=name) for name in ("faiss", "torch"))
    assert first.objective[-1] == pytest.approx(second.objective[-1], rel=0.03)


@backends
def test_every_sample_is_used(backend: str) -> None:
    """FAISS would fit on 256 samples per centroid; the mean of all is another one."""
    points = cloud(1500, 4)
    found = kmeans(points, 1, iterations=2, backend=backend)
    torch.testing.assert_close(found.centroids[0], points.mean(dim=0), rtol=1e-5, atol=1e-6)
    assert found.objective[-1] == pytest.approx(inertia(points, found.centroids), rel=1e-5)
    limited = kmeans(points, 1, iterations=2, backend=backend, max_points_per_cluster=256)
    assert float((limited.centroids - found.centroids).abs().max()) > 1e-3
    assert limited.counts.tolist() == [1500]  # labels are those of all samples


@backends
def test_sub_sample_is_random_and_drawn_from_the_seed(backend: str) -> None:
    """A limit takes neither the first samples nor always the same ones."""
    points = torch.arange(100.0)[:, None]
    means = [
        kmeans(points, 1, iterations=1, backend=backend, max_points_per_cluster=20, seed=seed).centroids.item()
        for seed in (0, 1, 0)
    ]
    assert means[0] == means[2] != means[1]
    assert min(means) > 25


@backends
@pytest.mark.parametrize("iterations", [0, 1])
def test_seed_decides(backend: str, iterations: int) -> None:
    points = cloud(100, 8)
    first, again, other = (
        kmeans(points, 10, iterations=iterations, backend=backend, seed=seed).centroids for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    kmeans(cloud(50, 4), 5, iterations=1, max_points_per_cluster=2)
    assert torch.equal(torch.rand(1), expected)


@backends
def test_no_iterations_gives_members_of_the_data(backend: str) -> None:
    """ProtoCLIP's row without K-means: random members, nearest assignment."""
    points = cloud(50, 8)
    found = kmeans(points, 10, iterations=0, backend=backend, redo=3)
    sources = [(points == centroid).all(dim=1).nonzero().squeeze(1).tolist() for centroid in found.centroids]
    assert all(len(source) == 1 for source in sources)
    assert len({source[0] for source in sources}) == 10
    assert sorted(source[0] for source in sources) != list(range(10))
    assert found.objective == []
    assert torch.equal(found.labels, torch.cdist(points, found.centroids).argmin(dim=1))


@backends
@pytest.mark.parametrize("iterations", [0, 4])
def test_labels_are_the_nearest_final_centroids(backend: str, iterations: int) -> None:
    points = cloud(500, 8)
    found = kmeans(points, 20, iterations=iterations, backend=backend)
    assert torch.equal(found.labels, torch.cdist(points.double(), found.centroids.double()).argmin(dim=1))
    assert found.labels.dtype == found.counts.dtype == torch.int64
    assert found.counts.tolist() == [int((found.labels == k).sum()) for k in range(20)]


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(101, 8)
    whole = kmeans(points, 7, iterations=5, backend="torch")
    file = importlib.import_module("protoclip.prototypes.kmeans")  # the package gives the function under this name
    monkeypatch.setattr(file, "BLOCK_ELEMENTS", 70)
    blocked = kmeans(points, 7, iterations=5, backend="torch")
    assert torch.equal(blocked.labels, whole.labels)
    torch.testing.assert_close(blocked.centroids, whole.centroids)


@backends
def test_redo_keeps_the_best(backend: str) -> None:
    points = torch.cat([separated(6, 20, seed)[0] for seed in range(2)])
    single = kmeans(points, 12, iterations=5, backend=backend, seed=3)
    best = kmeans(points, 12, iterations=5, backend=backend, seed=3, redo=8)
    assert best.objective[-1] < 0.999 * single.objective[-1]
    assert inertia(points, best.centroids) <= best.objective[-1] * (1 + 1e-5)  # its centroids, not another run's


@backends
def test_objective_falls_and_is_made_of_plain_floats(backend: str) -> None:
    """numpy's floats would be saved in a checkpoint that cannot be loaded again."""
    points = cloud(400, 8)
    found = kmeans(points, 10, iterations=8, redo=2, backend=backend)
    assert 2 < len(found.objective) <= 8
    assert all(type(value) is float for value in found.objective)
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(found.objective))
    assert found.objective[-1] < found.objective[0]


@backends
def test_duplicates_leave_clusters_empty_and_centroids_finite(backend: str) -> None:
    points = cloud(3, 8).repeat(20, 1)
    found = kmeans(points, 10, iterations=5, backend=backend)
    assert bool(found.centroids.isfinite().all())
    assert int((found.counts == 0).sum()) == 7
    assert int(found.counts.sum()) == 60
    assert len(found.counts) == len(found.centroids) == 10


@backends
def test_an_empty_cluster_gets_half_of_a_large_one(backend: str) -> None:
    points, _ = separated()
    init = torch.cat([points[:3], torch.full((1, 6), 1e3)])
    found = kmeans(points, 4, init=init, iterations=10, backend=backend)
    assert bool((found.counts > 0).all())


@backends
def test_as_many_clusters_as_samples(backend: str) -> None:
    points = cloud(12, 8)
    found = kmeans(points, 12, iterations=2, backend=backend)
    assert found.counts.tolist() == [1] * 12
    assert found.objective[-1] == pytest.approx(0.0, abs=1e-5)


@backends
def test_centroids_are_means_that_are_not_normalised(backend: str) -> None:
    found = kmeans(cloud(200, 8), 5, iterations=3, backend=backend)
    assert bool((found.centroids.norm(dim=1) < 0.95).all())


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_inputs_stay(backend: str, dtype: torch.dtype) -> None:
    points = cloud(60, 4).to(dtype).requires_grad_()
    before, init = points.detach().clone(), points.detach()[:5].clone()
    found = kmeans(points, 5, init=init, iterations=3, backend=backend)
    assert isinstance(found, Clusters)
    assert found.centroids.dtype == dtype
    assert not found.centroids.requires_grad
    assert torch.equal(points, before)
    assert torch.equal(init, before[:5])


def test_labels_of_features_in_a_narrow_cone() -> None:
    """Fresh heads give features that are almost equal; float32 distances must still tell them apart."""
    points = F.normalize(1 + 0.003 * normal(1000, 64, seed=0), dim=1)
    found = kmeans(points, 20, iterations=3, backend="torch")
    nearest = torch.cdist(points.double(), found.centroids.double()).argmin(dim=1)
    assert float((found.labels != nearest).float().mean()) < 0.01


def with_nan(value: float) -> Tensor:
    points = cloud(10, 4)
    points[3, 2] = value
    return points


@pytest.mark.parametrize(
    ("points", "clusters", "options", "message"),
    [
        (cloud(10, 4), 11, {}, "between 1 and the 10 samples, not 11"),
        (cloud(10, 4), 0, {}, "between 1 and the 10 samples, not 0"),
        (with_nan(math.nan), 2, {}, "finite"),
        (with_nan(math.inf), 2, {}, "finite"),
        (cloud(10, 4), 2, {"backend": "sklearn"}, "faiss, torch, not 'sklearn'"),
        (cloud(10, 4), 2, {"redo": 0}, "redo"),
        (cloud(10, 4), 2, {"iterations": -1}, "iterations"),
        (cloud(10, 4), 2, {"max_points_per_cluster": 0}, "max_points_per_cluster"),
        (cloud(10, 4), 3, {"init": cloud(2, 4)}, "init"),
        (cloud(10, 4), 3, {"init": cloud(3, 5)}, "init"),
        (cloud(10, 4), 2, {"device": "gpu"}, "device"),
    ],
)
@backends
def test_mistakes_are_told_in_one_line(
    backend: str, points: Tensor, clusters: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kmeans(points, clusters, **{"backend": backend, "iterations": 2, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="this FAISS has a GPU")
@pytest.mark.parametrize("call", [lambda: kmeans(cloud(10, 4), 2, device="cuda"), lambda: KMeans(device="cuda")])
def test_faiss_without_gpu_refuses_cuda(call: Callable[[], object]) -> None:
    """It would run on the CPU without a word."""
    with pytest.raises(ValueError, match=r"kmeans\.backend=torch, or prototype\.kmeans\.device=cpu") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_torch_without_gpu_refuses_cuda() -> None:
    with pytest.raises(ValueError, match=r"kmeans\.device=cpu"):
        kmeans(cloud(10, 4), 2, device="cuda", backend="torch")
    with pytest.raises(ValueError, match=r"kmeans\.device=cpu"):
        KMeans(device="cuda", backend="torch")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iterations": 0, "redo": 4},
        {"iterations": 3, "backend": "torch", "redo": 2, "max_points_per_cluster": 10},
    ],
)
def test_bound_options_are_those_of_the_call(options: dict[str, Any]) -> None:
    points = cloud(100, 8)
    found, expected = KMeans(**options)(points, 5, seed=3), kmeans(points, 5, seed=3, **options)
    assert torch.equal(found.centroids, expected.centroids)
    assert torch.equal(found.labels, expected.labels)
    assert found.objective == expected.objective


def test_both_have_the_same_defaults() -> None:
    call, bound = (inspect.signature(function).parameters for function in (kmeans, KMeans))
    assert {name: parameter.default for name, parameter in bound.items()} == {
        name: call[name].default for name in bound
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "sklearn"}, "faiss, torch, not 'sklearn'"),
        ({"redo": 0}, "redo"),
        ({"iterations": -1}, "iterations"),
        ({"max_points_per_cluster": 0}, "max_points_per_cluster"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_bound_options_are_checked_before_there_are_features(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        KMeans(**options)
    assert "\n" not in str(caught.value)
