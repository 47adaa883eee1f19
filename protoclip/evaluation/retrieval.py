"""Image-text retrieval: recall at k with any number of captions per image (any-hit, as CLIP and Karpathy report it)."""

import torch
from torch import Tensor

from protoclip.evaluation.checks import check_same_dim, checked_features, checked_labels
from protoclip.evaluation.ranking import expected_hits, normalised, similarity
from protoclip.evaluation.representation import feature_std, modality_gap, self_similarity
from protoclip.evaluation.task import Sets, Task
from protoclip.ranges import PositiveInt

RECALLS = (1, 5, 10)


def retrieval_metrics(
    image_features: Tensor, text_features: Tensor, text_owner: Tensor, *, chunk: int = 512
) -> dict[str, float]:
    """Retrieval recalls in both directions.

    ``image_to_text_R@k`` is the share of images with at least one own caption among their k nearest captions,
    ``text_to_image_R@k`` the share of captions whose image is among their k nearest images. Exact ties count by
    expectation, see ``ranking``: equal features for everything give chance. Both sides are L2-normalised here.

    Args:
        image_features: [images, dim].
        text_features: [texts, dim].
        text_owner: [texts] index of the image that each caption describes.
        chunk: Queries per block; memory is a few times chunk x candidates.

    Returns:
        The six recalls and their mean ``mean_recall``, in percent.

    Raises:
        ValueError: If dims or counts differ, an owner is out of range, or an image has no caption.
    """
    images = checked_features("image_features", image_features)
    texts = checked_features("text_features", text_features).to(images.device)
    check_same_dim("image_features", images, "text_features", texts)
    owner = checked_labels("text_owner", text_owner, texts, num_classes=len(images))
    alone = torch.bincount(owner, minlength=len(images)) == 0
    if alone.any():
        raise ValueError(
            f"image {int(alone.nonzero()[0])} has no caption in text_owner: leave it out of the evaluation"
        )
    images, texts = normalised(images), normalised(texts)
    every_image = torch.arange(len(images), device=images.device)
    metrics = {
        f"{name}_R@{k}": recall
        for name, recalls in {
            "image_to_text": _recalls(images, every_image, texts, owner, chunk),
            "text_to_image": _recalls(texts, owner, images, every_image, chunk),
        }.items()
        for k, recall in zip(RECALLS, recalls, strict=True)
    }
    return {**metrics, "mean_recall": sum(metrics.values()) / len(metrics)}


def _recalls(queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor, chunk: int) -> list[float]:
    """Recalls in percent at each of ``RECALLS``: a candidate is right where its id is the query's."""
    blocks = []
    for rows, ids in zip(torch.split(queries, chunk), torch.split(query_ids, chunk), strict=True):
        scores = similarity(rows, candidates)
        right = ids[:, None] == candidate_ids
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        at_best = scores == best
        counts = (scores > best).sum(dim=1), at_best.sum(dim=1), (at_best & right).sum(dim=1)
        blocks.append(torch.stack([expected_hits(*counts, k) for k in RECALLS]))
    recalls: list[float] = (100 * torch.cat(blocks, dim=1).mean(dim=1)).tolist()
    return recalls


class Retrieval(Task):
    """Image-text retrieval, with modality gap, self-similarity and spread of pictures and their first captions.

    Args:
        pictures: a set with captions.
        captions: the first so many of each picture take part; None: all of them.
    """

    def __init__(self, pictures: str, captions: PositiveInt | None = None) -> None:
        super().__init__(pictures)
        self.captions = captions

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        found = sets[self.pictures]
        if not found.text:
            raise ValueError(f"retrieval on {self.pictures} needs a set with captions")
        images, texts, owner = found.image["features"], found.text["features"], found.owner
        place = torch.arange(len(owner)) - torch.searchsorted(owner, owner)  # of each caption among its picture's
        first, kept = texts[place == 0], place < (self.captions or len(owner))
        return retrieval_metrics(images, texts[kept], owner[kept]) | {
            "modality_gap": modality_gap(images, first),
            "image_self_similarity": self_similarity(images),
            "text_self_similarity": self_similarity(first),
            "image_feature_std": feature_std(images),
            "text_feature_std": feature_std(first),
        }
