import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from protoclip.evaluation import Extracted, PseudoLabels, cluster_purity, pseudo_label_quality
from protoclip.prototypes import kmeans

POINTS = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
LABELS = torch.tensor([0, 0, 5, 5])


def test_by_hand() -> None:
    metrics = pseudo_label_quality(POINTS, LABELS)
    assert metrics["used_clusters"] == 2
    # distance to the own cluster 2, mean distance to the other (10 + sqrt 104) / 2
    other = (10 + math.sqrt(104)) / 2
    assert metrics["silhouette"] == pytest.approx((other - 2) / other)
    assert metrics["davies_bouldin"] == pytest.approx((1 + 1) / 10)
    # between 4 * 25 / (2 - 1), within 4 * 1 / (4 - 2)
    assert metrics["calinski_harabasz"] == pytest.approx(100 / 2)
    assert "purity" not in metrics


def test_purity_and_nmi_by_hand() -> None:
    clusters = torch.tensor([0, 0, 0, 1, 1, 2])
    truth = torch.tensor([4, 4, 7, 7, 7, 4])
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    metrics = pseudo_label_quality(points, clusters, true_labels=truth)
    assert metrics["purity"] == cluster_purity(clusters, truth) == pytest.approx(5 / 6)
    third, half = 1 / 3, 1 / 2
    mutual = third * math.log(third / (half * half)) + 1 / 6 * math.log((1 / 6) / (half * half))
    mutual += third * math.log(third / (third * half)) + 1 / 6 * math.log((1 / 6) / (1 / 6 * half))
    entropies = math.log(2), half * math.log(2) + third * math.log(3) + 1 / 6 * math.log(6)
    assert metrics["nmi"] == pytest.approx(mutual / (sum(entropies) / 2))


def test_perfect_labels_and_renaming() -> None:
    metrics = pseudo_label_quality(POINTS, LABELS, true_labels=torch.tensor([3, 3, 1, 1]))
    assert metrics["purity"] == metrics["nmi"] == pytest.approx(1.0)
    renamed = pseudo_label_quality(POINTS, 9 - LABELS)
    assert renamed == pytest.approx(pseudo_label_quality(POINTS, LABELS))


def test_unknown_classes_are_left_out() -> None:
    truth = torch.tensor([3, -1, 1, -1])
    assert pseudo_label_quality(POINTS, LABELS, true_labels=truth)["purity"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="true_labels are all -1"):
        pseudo_label_quality(POINTS, LABELS, true_labels=torch.full((4,), -1))


def test_silhouette_is_sampled_and_seeded() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(400, 3, generator=generator), torch.randint(0, 4, (400,), generator=generator)
    first = pseudo_label_quality(features, labels, sample=50, seed=1)
    assert first == pseudo_label_quality(features, labels, sample=50, seed=1)
    other = pseudo_label_quality(features, labels, sample=50, seed=2)
    assert first["silhouette"] != other["silhouette"]
    assert first["davies_bouldin"] == other["davies_bouldin"]


@pytest.mark.parametrize("labels", [torch.zeros(4, dtype=torch.int64), torch.arange(4)])
def test_scores_that_are_not_defined_are_nan(labels: Tensor) -> None:
    metrics = pseudo_label_quality(POINTS, labels, true_labels=LABELS)
    assert all(math.isnan(metrics[name]) for name in ("silhouette", "davies_bouldin", "calinski_harabasz"))
    assert metrics["purity"] == (0.5 if labels[1] == 0 else 1.0)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="labels has the shape"):
        pseudo_label_quality(POINTS, LABELS[:2])
    with pytest.raises(ValueError, match="true_labels must be at least -1"):
        pseudo_label_quality(POINTS, LABELS, true_labels=LABELS - 9)
    with pytest.raises(ValueError, match="sample must be at least 2"):
        pseudo_label_quality(POINTS, LABELS, sample=1)


@pytest.mark.parametrize(("images_per_prototype", "clusters"), [(10, 4), (5, 8), (100, 2)])
def test_the_task(sets: dict[str, Extracted], images_per_prototype: float, clusters: int) -> None:
    found = sets["pairs"]
    expected: dict[str, float] = {}
    first = [found.owner.tolist().index(picture) for picture in range(40)]
    for modality, features in {"image": found.image["prototype"], "text": found.text["prototype"][first]}.items():
        labels = kmeans(features, clusters).labels
        quality = pseudo_label_quality(features, labels, true_labels=found.labels)
        expected |= {f"{modality}_{name}": value for name, value in quality.items()}
    result = PseudoLabels("pairs", images_per_prototype=images_per_prototype)(sets)
    assert result == expected
    assert result["image_used_clusters"] <= clusters
    assert {"image_purity", "text_nmi", "text_silhouette"} <= set(result)


def test_the_task_without_classes_has_no_purity(sets: dict[str, Extracted]) -> None:
    unknown = {"pairs": replace(sets["pairs"], labels=torch.full((40,), -1))}
    result = PseudoLabels("pairs")(unknown)
    assert "image_silhouette" in result
    assert not any("purity" in name or "nmi" in name for name in result)


def test_the_task_reads_the_head_that_it_names(sets: dict[str, Extracted]) -> None:
    task = PseudoLabels("pairs", head="other")
    found = sets["pairs"]
    renamed = replace(found, image={"other": found.image["prototype"]}, text={"other": found.text["prototype"]})
    assert (task.applies(found.image), task.applies(renamed.image)) == (False, True)
    assert task({"pairs": renamed}) == PseudoLabels("pairs")(sets)
