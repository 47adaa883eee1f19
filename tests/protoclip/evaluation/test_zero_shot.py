from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from protoclip.evaluation import (
    Extracted,
    TokenZeroShot,
    ZeroShot,
    class_features,
    token_zero_shot_metrics,
    zero_shot_metrics,
)
from protoclip.evaluation.zero_shot import Direction


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


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_classes_without_images_are_left_out_of_the_mean() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    images = torch.eye(4)[torch.tensor([0, 0, 1, 2])]  # of class 0 two of three are right, of class 2 all
    metrics = zero_shot_metrics(images, torch.eye(4), labels)
    assert metrics["mean_per_class"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert metrics["mean_per_class"] == pytest.approx(100 * balanced_accuracy_score(labels, [0, 0, 1, 2]))


@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:Conversion of an array")
def test_definitions_are_those_of_clip_benchmark() -> None:
    generator = torch.Generator().manual_seed(4)
    prompts, labels = torch.randn(9, 3, 8, generator=generator), torch.randint(0, 8, (120,), generator=generator)
    images = prompts.mean(dim=1)[labels] + torch.randn(120, 8, generator=generator)  # the ninth class has no image
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=50)
    loader.dataset.classes = range(9)  # type: ignore[attr-defined]
    model = SimpleNamespace(encode_image=lambda batch: batch, encode_text=lambda tokens: tokens)

    def tokenizer(texts: list[str]) -> Tensor:
        return torch.stack([prompts[tuple(map(int, text.split()))] for text in texts])

    names, templates = [str(name) for name in range(9)], [f"{{c}} {template}" for template in range(3)]
    theirs = zeroshot_classification.evaluate(model, loader, tokenizer, names, templates, "cpu", amp=False)
    ours = zero_shot_metrics(images, class_features(prompts), labels)
    expected = {"top1": theirs["acc1"], "top5": theirs["acc5"], "mean_per_class": theirs["mean_per_class_recall"]}
    assert {name: value / 100 for name, value in ours.items()} == pytest.approx(expected, abs=1e-6)
    assert 30 < ours["top1"] < ours["top5"] < 100


def test_fewer_than_five_classes() -> None:
    assert zero_shot_metrics(torch.eye(2), -torch.eye(2), torch.tensor([0, 1])) == {
        "top1": 0.0,
        "top5": 100.0,
        "mean_per_class": 0.0,
    }


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="image_features and class_features differ in dim"):
        zero_shot_metrics(torch.eye(2), torch.eye(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels must be below 2, .* both must come from one set"):
        zero_shot_metrics(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="labels has the shape"):
        zero_shot_metrics(torch.eye(2), torch.eye(2), torch.tensor([0]))
    with pytest.raises(ValueError, match="prompt_features needs 3 axes"):
        class_features(torch.eye(2))


def _tokens() -> dict[str, Any]:
    """Pictures of 4 tokens, 3 prompts of 2 to 5 tokens for each of 6 classes, in places for 9; of any length."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 6, (30,), generator=generator)
    prompts = torch.randn(6, 3, 9, 5, generator=generator, dtype=torch.float64)
    lengths = torch.randint(2, 6, (6, 3), generator=generator)
    images = prompts[labels, 0, :4] + 1.2 * torch.randn(30, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(9) < lengths[:, :, None]
    return {"image_tokens": images, "prompt_tokens": prompts, "prompt_mask": mask, "labels": labels}


def _late_interaction(tokens: dict[str, Any], direction: str) -> Tensor:
    """Scores [images, classes] by loops over pictures, classes, prompts and tokens."""
    scores = torch.zeros(30, 6, dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity
    for i, image in enumerate(tokens["image_tokens"]):
        for c, (prompts, masks) in enumerate(zip(tokens["prompt_tokens"], tokens["prompt_mask"], strict=True)):
            for prompt, mask in zip(prompts, masks, strict=True):
                words = prompt[mask]
                to_text = sum(max(float(cosine(patch, word, dim=0)) for word in words) for patch in image) / len(image)
                to_image = sum(max(float(cosine(patch, word, dim=0)) for patch in image) for word in words) / len(words)
                scores[i, c] += (to_text if direction == "image_to_text" else (to_text + to_image) / 2) / len(prompts)
    return scores


@pytest.mark.parametrize("direction", ["image_to_text", "both"])
def test_tokens_against_loops(direction: Direction) -> None:
    tokens = _tokens()
    scores, labels = _late_interaction(tokens, direction), tokens["labels"]
    top = {k: (scores.topk(k, dim=1).indices == labels[:, None]).any(dim=1) for k in (1, 5)}
    recalls = [float(top[1][labels == label].double().mean()) for label in labels.unique()]
    expected = {f"top{k}": 100 * float(hits.double().mean()) for k, hits in top.items()}
    expected["mean_per_class"] = 100 * sum(recalls) / len(recalls)
    for block in (2**24, 500, 1):
        metrics = token_zero_shot_metrics(**tokens, direction=direction, block=block)
        assert metrics == pytest.approx(expected)
    assert 25 < expected["top1"] < expected["top5"] < 100


def test_directions_differ_and_padding_does_not_count() -> None:
    tokens = _tokens()
    metrics = token_zero_shot_metrics(**tokens)
    assert token_zero_shot_metrics(**tokens, direction="both") != metrics
    noise = torch.where(tokens["prompt_mask"][..., None], tokens["prompt_tokens"], 100.0)
    assert token_zero_shot_metrics(**tokens | {"prompt_tokens": noise}) == metrics
    everything = torch.ones_like(tokens["prompt_mask"])
    assert token_zero_shot_metrics(**tokens | {"prompt_mask": everything}) != metrics


def test_one_token_each_is_the_zero_shot_of_features() -> None:
    generator = torch.Generator().manual_seed(3)
    images, classes = torch.randn(40, 8, generator=generator), torch.randn(7, 8, generator=generator)
    labels = torch.randint(0, 7, (40,), generator=generator)
    mask = torch.ones(7, 1, 1, dtype=torch.bool)
    directions: tuple[Direction, ...] = ("image_to_text", "both")
    for direction in directions:
        metrics = token_zero_shot_metrics(images[:, None], classes[:, None, None], mask, labels, direction=direction)
        assert metrics == pytest.approx(zero_shot_metrics(images, classes, labels))


def test_class_names_that_occur_twice_count_half_by_tokens() -> None:
    tokens = _tokens()
    twice = {name: torch.cat([tokens[name], tokens[name]]) for name in ("prompt_tokens", "prompt_mask")}
    single = token_zero_shot_metrics(**tokens)["top1"]
    assert token_zero_shot_metrics(**tokens | twice)["top1"] == pytest.approx(single / 2)


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("image_tokens", torch.ones(30, 5), "image_tokens needs 3 axes"),
        ("image_tokens", torch.ones(30, 4, 6), "image_tokens and prompt_tokens differ in dim"),
        ("prompt_mask", torch.ones(6, 3, 8, dtype=torch.bool), "prompt_mask has the shape"),
        ("labels", torch.full((30,), 6), "labels must be below 6"),
    ],
)
def test_mistakes_with_tokens_are_named(name: str, value: Tensor, mend: str) -> None:
    with pytest.raises(ValueError, match=mend) as caught:
        token_zero_shot_metrics(**_tokens() | {name: value})
    assert "\n" not in str(caught.value)


def test_the_task(sets: dict[str, Extracted]) -> None:
    found = sets["objects"]
    assert found.class_features is not None
    expected = zero_shot_metrics(found.image["features"], found.class_features, found.labels)
    assert ZeroShot("objects")(sets) == expected
    assert 30 < expected["top1"] < 100


@pytest.mark.parametrize("direction", ["image_to_text", "both"])
def test_the_task_by_tokens(sets: dict[str, Extracted], direction: Direction) -> None:
    found = sets["objects"]
    task = TokenZeroShot("objects", head="words", direction=direction)
    assert task.prompt_outputs == ("words", "token_mask")
    tokens = (found.image["words"], found.prompts["words"], found.prompts["token_mask"])
    expected = token_zero_shot_metrics(*tokens, found.labels, direction=direction)
    assert task(sets) == expected
    assert 30 < expected["top1"] < 100
