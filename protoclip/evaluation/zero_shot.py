"""Zero-shot classification by the similarity of an image to each class's prompts (CLIP, section 3.1; FILIP, 3.1)."""

from typing import Literal

import torch
from torch import Tensor

from protoclip.evaluation.checks import check_same_dim, checked_features, checked_labels
from protoclip.evaluation.ranking import expected_hits, normalised, similarity
from protoclip.evaluation.task import Sets, Task
from protoclip.losses import token_similarity

Direction = Literal["image_to_text", "both"]


def class_features(prompt_features: Tensor) -> Tensor:
    """Ensemble the prompts of each class: normalise each prompt, mean, normalise.

    Args:
        prompt_features: [classes, templates, dim] text embeddings, of any length.

    Returns:
        [classes, dim], unit length.

    Raises:
        ValueError: If the shape is not [classes, templates, dim], or a value is not finite.
    """
    prompts = checked_features("prompt_features", prompt_features, ndim=3)
    return normalised(normalised(prompts).mean(dim=1))


def zero_shot_metrics(
    image_features: Tensor, class_features: Tensor, labels: Tensor, *, chunk: int = 4096
) -> dict[str, float]:
    """Zero-shot accuracy.

    Both sides are L2-normalised here. ``top5`` is top-C where there are C < 5 classes, so always 100. Classes of equal
    score (ImageNet has class names that occur twice) count by expectation, see ``ranking``.

    Args:
        image_features: [images, dim].
        class_features: [classes, dim], see the function of that name.
        labels: [images] in 0 to classes - 1.
        chunk: Images per block of the similarity matrix.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` (mean top-1 over the classes that have images, as scikit-learn's
        balanced accuracy), in percent.

    Raises:
        ValueError: If dims or counts differ, a label is out of range, or something is empty.
    """
    images = checked_features("image_features", image_features)
    classes = checked_features("class_features", class_features)
    check_same_dim("image_features", images, "class_features", classes)
    labels = checked_labels("labels", labels, images, num_classes=len(classes))
    images, classes = normalised(images), normalised(classes)
    blocks = zip(torch.split(images, chunk), torch.split(labels, chunk), strict=True)
    hits = [_hits(similarity(rows, classes), targets) for rows, targets in blocks]
    return _accuracies(torch.cat(hits, dim=1), labels)


def token_zero_shot_metrics(
    image_tokens: Tensor,
    prompt_tokens: Tensor,
    prompt_mask: Tensor,
    labels: Tensor,
    *,
    direction: Direction = "image_to_text",
    block: int = 2**24,
) -> dict[str, float]:
    """Zero-shot accuracy by late interaction: a class scores the mean token similarity of its prompts (FILIP).

    Tokens are L2-normalised here. For the rest as ``zero_shot_metrics``.

    Args:
        image_tokens: [images, positions, dim].
        prompt_tokens: [classes, templates, length, dim].
        prompt_mask: [classes, templates, length], True for real tokens.
        labels: [images] in 0 to classes - 1.
        direction: ``image_to_text``: each image token finds its best word; ``both``: the mean of that and of each
            word's best image token.
        block: Pairs of an image token and a word that are compared at once.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class``, in percent.

    Raises:
        ValueError: If shapes differ, a label is out of range, or something is empty.
    """
    images = checked_features("image_tokens", image_tokens, ndim=3)
    prompts = checked_features("prompt_tokens", prompt_tokens, ndim=4)
    check_same_dim("image_tokens", images, "prompt_tokens", prompts)
    labels = checked_labels("labels", labels, images, num_classes=len(prompts))
    if prompt_mask.shape != prompts.shape[:3]:
        raise ValueError(
            f"prompt_mask has the shape {list(prompt_mask.shape)}, but prompt_tokens {list(prompts.shape)}"
        )
    # the padding behind the longest prompt is most of what there is
    longest = int(prompt_mask.any(dim=(0, 1)).nonzero().max()) + 1
    prompts, mask = normalised(prompts[:, :, :longest]), prompt_mask[:, :, :longest]
    chunk = max(1, block // (images.shape[1] * mask[0].numel()))
    hits = []
    for rows, targets in zip(torch.split(images, chunk), torch.split(labels, chunk), strict=True):
        tokens = normalised(rows)
        scores = [_token_scores(tokens, *prompt, direction) for prompt in zip(prompts, mask, strict=True)]
        hits.append(_hits(torch.stack(scores, dim=1), targets))
    return _accuracies(torch.cat(hits, dim=1), labels)


def _token_scores(images: Tensor, prompts: Tensor, mask: Tensor, direction: Direction) -> Tensor:
    """Similarity [images] to the prompts of one class [templates, length, dim]."""
    to_text, to_image = token_similarity(images, prompts, mask)
    return to_text.mean(dim=1) if direction == "image_to_text" else (to_text.mean(dim=1) + to_image.mean(dim=0)) / 2


def _hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Expected hits [2, images] at ranks 1 and 5 from scores [images, classes]."""
    target = scores.gather(1, labels[:, None])
    higher, tied = (scores > target).sum(dim=1), (scores == target).sum(dim=1)
    return torch.stack([expected_hits(higher, tied, torch.ones_like(tied), k) for k in (1, 5)])


def _accuracies(hits: Tensor, labels: Tensor) -> dict[str, float]:
    counts = torch.bincount(labels)
    recalls = torch.bincount(labels, weights=hits[0])[counts > 0] / counts[counts > 0]
    top1, top5 = hits.mean(dim=1).tolist()
    return {"top1": 100 * top1, "top5": 100 * top5, "mean_per_class": 100 * float(recalls.mean())}


class ZeroShot(Task):
    """Zero-shot classification by prompts."""

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        if found.class_features is None:
            raise ValueError(f"zero-shot on {self.pictures} needs a set with class names")
        return zero_shot_metrics(found.image["features"], found.class_features, found.labels)


class TokenZeroShot(Task):
    """Zero-shot classification by prompts, each token of one side compared with those of the other (FILIP).

    Args:
        pictures: a set with class names.
        head: name of the heads that give tokens.
        direction: whose tokens find their best: the picture's, or the mean of both.
    """

    def __init__(self, pictures: str, head: str, direction: Direction = "image_to_text") -> None:
        super().__init__(pictures)
        self.output = head
        self.prompt_outputs = (head, "token_mask")
        self.direction = direction

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        if not found.prompts:
            raise ValueError(f"zero-shot on {self.pictures} needs a set with class names")
        images, prompts = found.image[self.output], found.prompts[self.output]
        mask = found.prompts["token_mask"]
        return token_zero_shot_metrics(images, prompts, mask, found.labels, direction=self.direction)
