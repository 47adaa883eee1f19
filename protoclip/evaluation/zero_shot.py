"""Zero-shot classification by the similarity of an image to each class's prompts (CLIP, section 3.1)."""

import torch
from torch import Tensor

from protoclip.evaluation.checks import check_same_dim, checked_features, checked_labels
from protoclip.evaluation.ranking import expected_hits, normalised, similarity


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
        ``top1``, ``top5`` and ``mean_per_class`` (mean top-1 over the classes that have images), in percent.

    Raises:
        ValueError: If dims or counts differ, a label is out of range, or something is empty.
    """
    images = checked_features("image_features", image_features)
    classes = checked_features("class_features", class_features)
    check_same_dim("image_features", images, "class_features", classes)
    labels = checked_labels("labels", labels, images, num_classes=len(classes))
    images, classes = normalised(images), normalised(classes)
    blocks = []
    for rows, targets in zip(torch.split(images, chunk), torch.split(labels, chunk), strict=True):
        scores = similarity(rows, classes)
        target = scores.gather(1, targets[:, None])
        higher, tied = (scores > target).sum(dim=1), (scores == target).sum(dim=1)
        blocks.append(torch.stack([expected_hits(higher, tied, torch.ones_like(tied), k) for k in (1, 5)]))
    hits = torch.cat(blocks, dim=1)
    counts = torch.bincount(labels)
    recalls = torch.bincount(labels, weights=hits[0])[counts > 0] / counts[counts > 0]
    top1, top5 = hits.mean(dim=1).tolist()
    return {"top1": 100 * top1, "top5": 100 * top5, "mean_per_class": 100 * float(recalls.mean())}
