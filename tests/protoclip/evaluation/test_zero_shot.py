import pytest
import torch
from torch import Tensor

from protoclip.evaluation import class_features, zero_shot_metrics


def test_class_features_by_hand() -> None:
    prompts = torch.tensor([[[3.0, 0.0], [0.0, 0.5]], [[0.0, -7.0], [0.0, -1.0]]])
    half = 0.5**0.5
    torch.testing.assert_close(class_features(prompts), torch.tensor([[half, half], [0.0, -1.0]]))


def test_by_hand() -> None:
    classes = torch.eye(6)
    images = torch.tensor(
        [
            [0.9, 0.1, 0.0, 0.0, 0.0, 0.0],  # class 0, right
            [0.1, 0.9, 0.0, 0.0, 0.0, 0.0],  # class 0, second
            [0.5, 0.4, 0.3, 0.2, 0.1, 0.0],  # class 5, sixth
            [0.0, 0.9, 0.1, 0.2, 0.3, 0.4],  # class 1, right
        ]
    )
    metrics = zero_shot_metrics(images, classes, torch.tensor([0, 0, 5, 1]))
    assert metrics == {"top1": 50.0, "top5": 75.0, "mean_per_class": pytest.approx(50.0)}


def _oracle(images: Tensor, classes: Tensor, labels: Tensor) -> dict[str, float]:
    cosine = torch.nn.functional.cosine_similarity(images[:, None], classes[None], dim=-1)
    order = cosine.argsort(dim=1, descending=True)
    top = {k: [bool((row[:k] == label).any()) for row, label in zip(order, labels, strict=True)] for k in (1, 5)}
    recalls = []
    for label in set(labels.tolist()):
        members = [hit for hit, own in zip(top[1], labels, strict=True) if own == label]
        recalls.append(sum(members) / len(members))
    return {
        "top1": 100 * sum(top[1]) / len(labels),
        "top5": 100 * sum(top[5]) / len(labels),
        "mean_per_class": 100 * sum(recalls) / len(recalls),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_loops(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(12, 8, generator=generator, dtype=dtype)
    labels = torch.randint(0, 11, (90,), generator=generator)
    images = classes[labels] + 1.5 * torch.randn(90, 8, generator=generator, dtype=dtype)
    metrics = zero_shot_metrics(images, classes, labels, chunk=17)
    assert metrics == pytest.approx(_oracle(images, classes, labels))
    assert 20 < metrics["top1"] < metrics["top5"] < 100  # the case is neither trivial nor hopeless


def test_order_and_length_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    images, classes = torch.randn(40, 8, generator=generator), torch.randn(7, 8, generator=generator)
    labels = torch.randint(0, 7, (40,), generator=generator)
    metrics = zero_shot_metrics(images, classes, labels)
    order, renamed = torch.randperm(40, generator=generator), torch.randperm(7, generator=generator)
    moved = torch.empty_like(classes)
    moved[renamed] = 3 * classes
    assert zero_shot_metrics(0.1 * images[order], moved, renamed[labels[order]]) == pytest.approx(metrics)


def test_a_class_name_that_occurs_twice_counts_half() -> None:
    classes = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for label in (0, 1):
        metrics = zero_shot_metrics(torch.tensor([[1.0, 0.0]]), classes, torch.tensor([label]))
        assert metrics["top1"] == pytest.approx(50.0)


def test_a_collapsed_model_scores_chance() -> None:
    metrics = zero_shot_metrics(torch.ones(20, 4), torch.ones(10, 4), torch.arange(20) % 10)
    assert metrics == pytest.approx({"top1": 10.0, "top5": 50.0, "mean_per_class": 10.0})


def test_fewer_than_five_classes() -> None:
    assert zero_shot_metrics(torch.eye(2), -torch.eye(2), torch.tensor([0, 1])) == {
        "top1": 0.0,
        "top5": 100.0,
        "mean_per_class": 0.0,
    }


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="image_features and class_features differ in dim"):
        zero_shot_metrics(torch.eye(2), torch.eye(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels must be below 2"):
        zero_shot_metrics(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="labels has the shape"):
        zero_shot_metrics(torch.eye(2), torch.eye(2), torch.tensor([0]))
    with pytest.raises(ValueError, match="prompt_features needs 3 axes"):
        class_features(torch.eye(2))
