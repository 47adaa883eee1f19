from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import protoclip.evaluation.clustering as module
from protoclip.evaluation import Clustering, Extracted, cluster_metrics
from protoclip.prototypes import Clusters, kmeans


def _blobs(classes: int, each: int, spread: float, dim: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(each)
    centres = torch.nn.functional.normalize(torch.randn(classes, dim, generator=generator), dim=-1)
    return centres[labels] + spread * torch.randn(len(labels), dim, generator=generator), labels


def _give(monkeypatch: pytest.MonkeyPatch, clusters: Tensor) -> None:
    result = Clusters(torch.zeros(1, 1), clusters, torch.zeros(1), [])
    monkeypatch.setattr(module, "kmeans", lambda *_, **__: result)


def test_clear_clusters_are_found() -> None:
    features, labels = _blobs(classes=5, each=40, spread=0.02)
    assert cluster_metrics(features, labels) == pytest.approx({"ari": 1.0, "ami": 1.0})


def test_length_does_not_matter() -> None:
    features, labels = _blobs(classes=5, each=40, spread=0.3)
    lengths = torch.rand(200, 1, generator=torch.Generator().manual_seed(1)) * 50 + 0.1
    assert cluster_metrics(features * lengths, labels) == pytest.approx(cluster_metrics(features, labels), abs=0.02)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, torch.tensor([0, 0, 1, 2]))
    # ARI, of 6 pairs: 1 together in both, 2 in the labels, 1 in the clusters; by chance 1/3, at most
    # 3/2: (1 - 1/3) / (3/2 - 1/3)
    # AMI, in bits: entropies 1 and 1.5, mutual 1; by chance 1 where the cluster of two is of one class (1 in 3), else
    # 1/2, so 2/3: (1 - 2/3) / (5/4 - 2/3)
    metrics = cluster_metrics(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    assert metrics == pytest.approx({"ari": 4 / 7, "ami": 4 / 7})


def test_by_hand_where_all_that_agrees_is_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, torch.tensor([0, 0, 1, 1]))
    # the single of [0, 0, 0, 1] lies in one cluster or the other: no arrangement agrees more than another
    metrics = cluster_metrics(torch.eye(4), torch.tensor([0, 0, 0, 1]))
    assert metrics == pytest.approx({"ari": 0.0, "ami": 0.0}, abs=1e-12)


def test_by_hand_worse_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, torch.tensor([0, 1, 0, 1]))
    # ARI: none of 2 and 2 together in both, by chance 2/3: -2/3 / (2 - 2/3); AMI, in bits: mutual 0, by chance 1 for 2
    # of the 6 arrangements, else 0, so 1/3: -1/3 / (1 - 1/3)
    metrics = cluster_metrics(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    assert metrics == pytest.approx({"ari": -1 / 2, "ami": -1 / 2})


def test_names_of_clusters_do_not_matter_and_chance_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.randint(0, 5, (2000,), generator=torch.Generator().manual_seed(0))
    _give(monkeypatch, (labels + 2) % 5)
    assert cluster_metrics(torch.ones(2000, 2), labels) == pytest.approx({"ari": 1.0, "ami": 1.0})
    _give(monkeypatch, torch.randint(0, 5, (2000,), generator=torch.Generator().manual_seed(1)))
    assert cluster_metrics(torch.ones(2000, 2), labels) == pytest.approx({"ari": 0.0, "ami": 0.0}, abs=0.01)


def test_every_point_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 classes of 1,000 points: FAISS by itself would draw 2,560 of them."""
    features, labels = _blobs(classes=10, each=1000, spread=0.25)
    objectives = []

    def spy(points: Tensor, num_clusters: int, **options: int) -> Clusters:
        result = kmeans(points, num_clusters, **options)  # type: ignore[arg-type]
        assert num_clusters == 10
        assert options == {"iterations": 100, "redo": 5, "seed": 0}
        objectives.append(result.objective[-1] / float((points - result.centroids[result.labels]).square().sum()))
        return result

    monkeypatch.setattr(module, "kmeans", spy)
    metrics = cluster_metrics(features, labels)
    assert objectives == [pytest.approx(1.0, abs=0.02)]  # a sub-sample's sum would be a quarter of that over all points
    assert 0.3 < metrics["ari"] < 1
    monkeypatch.setattr(module, "kmeans", partial(kmeans, max_points_per_cluster=256))
    assert abs(cluster_metrics(features, labels)["ari"] - metrics["ari"]) > 1e-3


def test_ari_where_int64_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """70,000 points in two clusters: products of pair counts exceed 2**63."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 70_000)
    flipped = generator.random(70_000) < 0.15
    clusters = np.where(flipped, 1 - labels, labels)
    _give(monkeypatch, torch.from_numpy(clusters))
    ari = cluster_metrics(torch.ones(70_000, 2), torch.from_numpy(labels))["ari"]
    assert ari == pytest.approx((1 - 2 * 0.15) ** 2, abs=0.02)
    assert ari == pytest.approx(adjusted_rand_score(labels[:], clusters))


def test_number_of_clusters_is_the_number_of_classes_that_occur() -> None:
    features, labels = _blobs(classes=5, each=40, spread=0.02)
    assert cluster_metrics(features, labels * 7) == pytest.approx({"ari": 1.0, "ami": 1.0})
    assert cluster_metrics(features, labels, num_clusters=2)["ari"] < 0.9


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="labels has the shape"):
        cluster_metrics(torch.eye(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="num_clusters must lie in 1 to 3"):
        cluster_metrics(torch.eye(3), torch.tensor([0, 1, 2]), num_clusters=4)
    with pytest.raises(ValueError, match="labels must be at least 0"):
        cluster_metrics(torch.eye(3), torch.tensor([0, -1, 2]))


def test_the_task(sets: dict[str, Extracted]) -> None:
    found = sets["objects"]
    expected = cluster_metrics(found.image["features"], found.labels)
    assert Clustering("objects")(sets) == expected
    how = {"iterations": 1, "redo": 1, "seed": 3}
    other = cluster_metrics(found.image["features"], found.labels, **how)
    assert Clustering("objects", **how)(sets) == other != expected
