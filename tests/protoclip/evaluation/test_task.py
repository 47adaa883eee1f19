from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from protoclip.evaluation import (
    KNN,
    Clustering,
    Extracted,
    LinearProbe,
    PseudoLabels,
    Retrieval,
    Task,
    TokenZeroShot,
    ZeroShot,
    cluster_metrics,
    feature_std,
    knn_accuracy,
    linear_probe,
    modality_gap,
    pseudo_label_quality,
    retrieval_metrics,
    self_similarity,
    token_zero_shot_metrics,
    zero_shot_metrics,
)
from protoclip.evaluation.zero_shot import Direction
from protoclip.prototypes import kmeans

COUNTS = torch.arange(40) % 4 + 1
OWNER = torch.arange(40).repeat_interleave(COUNTS)
FIRST = COUNTS.cumsum(0) - COUNTS


def noisy(labels: Tensor, seed: int, dim: int = 6) -> Tensor:
    centres = torch.randn(4, dim, generator=torch.Generator().manual_seed(9))
    return centres[labels] + 1.2 * torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(seed))


def side(labels: Tensor, seed: int) -> dict[str, Tensor]:
    outputs = {"embedding": noisy(labels, seed), "features": functional.normalize(noisy(labels, seed + 1), dim=1)}
    return outputs | {"prototype": functional.normalize(noisy(labels, seed + 2), dim=1)}


@pytest.fixture(scope="module")
def sets() -> dict[str, Extracted]:
    """Every output of a tower has features of its own, so that no task gets away with another one."""
    train, test, pairs = torch.arange(60) % 4, torch.arange(32) % 4, torch.arange(40) % 3
    prompts = functional.normalize(noisy(torch.arange(4), 30), dim=1)
    tokens = {"words": noisy(test.repeat_interleave(3), 50).reshape(32, 3, 6)}
    words = noisy(torch.arange(4).repeat_interleave(10), 60).reshape(4, 2, 5, 6)
    asked = {"words": words, "token_mask": torch.arange(5) < torch.tensor([3, 5])[None, :, None].expand(4, 2, 1)}
    return {
        "train": Extracted(side(train, 0), train),
        "objects": Extracted(side(test, 10) | tokens, test, class_features=prompts, prompts=asked, prompts_hash="h"),
        "pairs": Extracted(side(pairs, 20), pairs, text=side(pairs[OWNER], 40), owner=OWNER),
    }


def test_zero_shot(sets: dict[str, Extracted]) -> None:
    found = sets["objects"]
    assert found.class_features is not None
    expected = zero_shot_metrics(found.image["features"], found.class_features, found.labels)
    assert ZeroShot("objects")(sets) == expected
    assert 30 < expected["top1"] < 100


@pytest.mark.parametrize("direction", ["image_to_text", "both"])
def test_token_zero_shot(sets: dict[str, Extracted], direction: Direction) -> None:
    found = sets["objects"]
    task = TokenZeroShot("objects", head="words", direction=direction)
    assert task.prompt_outputs == ("words", "token_mask")
    tokens = (found.image["words"], found.prompts["words"], found.prompts["token_mask"])
    expected = token_zero_shot_metrics(*tokens, found.labels, direction=direction)
    assert task(sets) == expected
    assert 30 < expected["top1"] < 100


def test_retrieval_compares_all_captions_and_describes_the_first(sets: dict[str, Extracted]) -> None:
    found = sets["pairs"]
    images, texts = found.image["features"], found.text["features"]
    assert Retrieval("pairs")(sets) == {
        **retrieval_metrics(images, texts, OWNER),
        "modality_gap": modality_gap(images, texts[FIRST]),
        "image_self_similarity": self_similarity(images),
        "text_self_similarity": self_similarity(texts[FIRST]),
        "image_feature_std": feature_std(images),
        "text_feature_std": feature_std(texts[FIRST]),
    }
    assert modality_gap(images, texts[FIRST]) != modality_gap(images, texts[:40])


def test_knn(sets: dict[str, Extracted]) -> None:
    train, test = sets["train"], sets["objects"]
    data = (train.image["features"], train.labels, test.image["features"], test.labels)
    assert KNN("objects", "train")(sets) == {"top1": knn_accuracy(*data, k=20, temperature=0.07)}
    other = knn_accuracy(*data, k=3, temperature=1.0)
    assert KNN("objects", "train", k=3, temperature=1.0)(sets) == {"top1": other}
    assert len({other, knn_accuracy(*data, k=20, temperature=1.0), knn_accuracy(*data, k=20)}) > 1


def test_linear_probe_is_on_the_raw_embedding(sets: dict[str, Extracted]) -> None:
    train, test = sets["train"], sets["objects"]
    data = (train.image["embedding"], train.labels, test.image["embedding"], test.labels)
    for penalty in (0.316, 10.0):
        assert LinearProbe("objects", "train", C=penalty)(sets) == linear_probe(*data, C=penalty)
    swept = LinearProbe("objects", "train", max_iter=50)(sets)
    assert swept == linear_probe(*data, max_iter=50)
    assert swept["C"] not in {0.316, 10.0}


def test_clustering(sets: dict[str, Extracted]) -> None:
    found = sets["objects"]
    assert Clustering("objects")(sets) == cluster_metrics(found.image["features"], found.labels)


@pytest.mark.parametrize(("images_per_prototype", "clusters"), [(10, 4), (5, 8), (100, 2)])
def test_pseudo_labels(sets: dict[str, Extracted], images_per_prototype: float, clusters: int) -> None:
    found = sets["pairs"]
    expected: dict[str, float] = {}
    for modality, features in {"image": found.image["prototype"], "text": found.text["prototype"][FIRST]}.items():
        labels = kmeans(features, clusters).labels
        quality = pseudo_label_quality(features, labels, true_labels=found.labels)
        expected |= {f"{modality}_{name}": value for name, value in quality.items()}
    result = PseudoLabels("pairs", images_per_prototype=images_per_prototype)(sets)
    assert result == expected
    assert result["image_used_clusters"] <= clusters
    assert {"image_purity", "text_nmi", "text_silhouette"} <= set(result)


def test_pseudo_labels_without_classes_have_no_purity(sets: dict[str, Extracted]) -> None:
    unknown = {"pairs": replace(sets["pairs"], labels=torch.full((40,), -1))}
    result = PseudoLabels("pairs")(unknown)
    assert "image_silhouette" in result
    assert not any("purity" in name or "nmi" in name for name in result)


def test_pseudo_labels_read_the_head_that_they_name(sets: dict[str, Extracted]) -> None:
    task = PseudoLabels("pairs", head="other")
    assert not task.applies(sets)
    found = sets["pairs"]
    renamed = replace(found, image={"other": found.image["prototype"]}, text={"other": found.text["prototype"]})
    assert task.applies({"pairs": renamed})
    assert task({"pairs": renamed}) == PseudoLabels("pairs")(sets)


@pytest.mark.parametrize(
    ("task", "needs"),
    [
        (ZeroShot("objects"), ("objects",)),
        (TokenZeroShot("objects", "words"), ("objects",)),
        (Retrieval("pairs"), ("pairs",)),
        (KNN("objects", "train"), ("objects", "train")),
        (LinearProbe("objects", "train"), ("objects", "train")),
        (Clustering("objects"), ("objects",)),
        (PseudoLabels("pairs"), ("pairs",)),
    ],
)
def test_tasks_say_what_they_need(sets: dict[str, Extracted], task: Task, needs: tuple[str, ...]) -> None:
    assert task.needs == needs
    assert task.applies(sets)
    bare = replace(sets[needs[0]], image={"embedding": sets[needs[0]].image["embedding"]})
    assert not task.applies({**sets, needs[0]: bare})


@pytest.mark.parametrize(
    ("task", "mend"),
    [
        (ZeroShot("pairs"), "class names"),
        (TokenZeroShot("pairs", "words"), "class names"),
        (Retrieval("objects"), "captions"),
        (PseudoLabels("objects"), "captions"),
    ],
)
def test_mistakes_are_told_in_one_line(sets: dict[str, Extracted], task: Task, mend: str) -> None:
    with pytest.raises(ValueError, match=mend) as caught:
        task(sets)
    assert "\n" not in str(caught.value)
