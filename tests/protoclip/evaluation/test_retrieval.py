from types import SimpleNamespace

import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval
from torch import Tensor
from torch.nn import functional
from torchmetrics.retrieval import RetrievalRecall

from protoclip.evaluation import (
    Extracted,
    Retrieval,
    feature_std,
    modality_gap,
    retrieval_metrics,
    self_similarity,
)


def _pairs(images: int, captions: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image_features = torch.randn(images, 8, generator=generator)
    owner = torch.arange(images).repeat_interleave(captions)
    text_features = image_features[owner] + noise * torch.randn(len(owner), 8, generator=generator)
    return image_features, text_features, owner


def _oracle(images: Tensor, texts: Tensor, owner: Tensor) -> dict[str, float]:
    images, texts = functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1)
    metrics = {}
    for k in (1, 5, 10):
        hits = 0
        for index, image in enumerate(images):
            best = sorted(range(len(texts)), key=lambda text: -float(texts[text] @ image))[:k]
            hits += any(int(owner[text]) == index for text in best)
        metrics[f"image_to_text_R@{k}"] = 100 * hits / len(images)
    for k in (1, 5, 10):
        hits = 0
        for index, text in enumerate(texts):
            best = sorted(range(len(images)), key=lambda image: -float(images[image] @ text))[:k]
            hits += int(owner[index]) in best
        metrics[f"text_to_image_R@{k}"] = 100 * hits / len(texts)
    return {**metrics, "mean_recall": sum(metrics.values()) / 6}


def test_by_hand() -> None:
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0.2, 0.1], [0.1, 0.2, 1.0], [0.2, 0.1, 1.0]])  # the second describes image 1, as third
    metrics = retrieval_metrics(images, texts, torch.tensor([0, 1, 2]))
    assert metrics["text_to_image_R@1"] == pytest.approx(200 / 3)
    assert metrics["image_to_text_R@1"] == pytest.approx(100.0 * 2 / 3)
    assert metrics["text_to_image_R@5"] == metrics["image_to_text_R@10"] == 100
    assert metrics["mean_recall"] == pytest.approx((2 * 200 / 3 + 400) / 6)


def test_five_captions_count_once_per_image() -> None:
    images, texts, owner = _pairs(images=12, captions=5, noise=0.01)
    metrics = retrieval_metrics(images, texts, owner)
    assert metrics["image_to_text_R@1"] == metrics["text_to_image_R@1"] == metrics["mean_recall"] == 100
    # the recall of information retrieval asks for all five captions, so its best at k = 1 is 0.2
    scores = functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
    relevant = owner == torch.arange(12)[:, None]
    groups = torch.arange(12)[:, None].expand_as(scores)
    assert RetrievalRecall(top_k=1)(scores.flatten(), relevant.flatten(), groups.flatten()) == pytest.approx(0.2)


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_against_loops_with_uneven_captions_in_any_order(chunk: int) -> None:
    images, texts, owner = _pairs(images=30, captions=4, noise=1.2)
    keep = torch.randperm(120, generator=torch.Generator().manual_seed(3))[:100]
    keep = torch.cat([keep[keep % 4 > 0], torch.arange(0, 120, 4)])  # every image keeps a caption
    keep = keep[torch.randperm(len(keep), generator=torch.Generator().manual_seed(4))]
    metrics = retrieval_metrics(images, texts[keep], owner[keep], chunk=chunk)
    assert metrics == pytest.approx(_oracle(images, texts[keep], owner[keep]))
    assert 20 < metrics["mean_recall"] < 95


def test_definitions_are_those_of_clip_benchmark() -> None:
    images, texts, owner = _pairs(images=40, captions=3, noise=2.0)
    kept = torch.arange(120) % 7 > 0  # two or three captions each
    texts, owner = texts[kept], owner[kept]
    captions = [(owner == image).nonzero()[:, 0].tolist() for image in range(40)]
    loader = [(images[rows], [captions[row] for row in rows]) for rows in torch.arange(40).split(16)]  # type: ignore[no-untyped-call]
    model = SimpleNamespace(encode_image=lambda batch: batch, encode_text=lambda tokens: texts[tokens])
    theirs = zeroshot_retrieval.evaluate(model, loader, torch.tensor, "cpu", amp=False, recall_k_list=[1, 5, 10])
    ours = retrieval_metrics(images, texts, owner)
    for k in (1, 5, 10):
        assert ours[f"text_to_image_R@{k}"] / 100 == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert ours[f"image_to_text_R@{k}"] / 100 == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)
    assert 20 < ours["mean_recall"] < 95


def test_one_caption_each_is_symmetric() -> None:
    images, texts, owner = _pairs(images=40, captions=1, noise=1.0)
    forward, backward = retrieval_metrics(images, texts, owner), retrieval_metrics(texts, images, owner)
    for k in (1, 5, 10):
        assert forward[f"image_to_text_R@{k}"] == pytest.approx(backward[f"text_to_image_R@{k}"])


def test_a_collapsed_model_scores_chance() -> None:
    owner = torch.arange(20).repeat_interleave(5)
    metrics = retrieval_metrics(torch.ones(20, 4), torch.ones(100, 4), owner)
    assert metrics["text_to_image_R@1"] == pytest.approx(5.0)
    assert metrics["text_to_image_R@10"] == pytest.approx(50.0)
    assert metrics["image_to_text_R@1"] == pytest.approx(5.0)
    miss = 1.0
    for place in range(10):
        miss *= (95 - place) / (100 - place)
    assert metrics["image_to_text_R@10"] == pytest.approx(100 * (1 - miss))


def test_a_duplicate_image_halves_the_hit_wherever_it_stands() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    metrics = retrieval_metrics(images, texts, torch.tensor([0, 1, 2]))
    swapped = retrieval_metrics(images, texts, torch.tensor([1, 0, 2]))
    assert metrics["text_to_image_R@1"] == swapped["text_to_image_R@1"] == pytest.approx(200 / 3)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="image 1 has no caption"):
        retrieval_metrics(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="text_owner must be below 2"):
        retrieval_metrics(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="text_owner has the shape"):
        retrieval_metrics(torch.eye(2), torch.eye(2), torch.tensor([0]))
    with pytest.raises(ValueError, match="differ in dim"):
        retrieval_metrics(torch.eye(2), torch.eye(3), torch.tensor([0, 1, 0]))


def test_retrieval_compares_all_captions_and_describes_the_first(sets: dict[str, Extracted]) -> None:
    found = sets["pairs"]
    images, texts = found.image["features"], found.text["features"]
    first = texts[[found.owner.tolist().index(image) for image in range(40)]]
    assert Retrieval("pairs")(sets) == {
        **retrieval_metrics(images, texts, found.owner),
        "modality_gap": modality_gap(images, first),
        "image_self_similarity": self_similarity(images),
        "text_self_similarity": self_similarity(first),
        "image_feature_std": feature_std(images),
        "text_feature_std": feature_std(first),
    }
    assert modality_gap(images, first) != modality_gap(images, texts[:40])


def test_the_first_captions_of_each_picture_take_part(sets: dict[str, Extracted]) -> None:
    found = sets["pairs"]
    owners = found.owner.tolist()
    rows = [row for row, owner in enumerate(owners) if owners[:row].count(owner) < 2]
    assert found.owner[rows].bincount().tolist() == [1, 2, 2, 2] * 10  # a picture with fewer keeps what it has
    expected = retrieval_metrics(found.image["features"], found.text["features"][rows], found.owner[rows])
    result, everything = Retrieval("pairs", captions=2)(sets), Retrieval("pairs")(sets)
    assert expected.items() <= result.items()
    assert result["mean_recall"] != everything["mean_recall"]
    assert {name: result[name] for name in result.keys() - expected} == {
        name: everything[name] for name in result.keys() - expected
    }
    assert Retrieval("pairs", captions=9)(sets) == everything
