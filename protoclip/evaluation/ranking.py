"""Similarity and hits at rank k, with ties counted by their expectation.

A query's rank is the number of candidates that score strictly higher than the right one. Exact ties (duplicate images
or captions, class names that occur twice, a collapsed model) are scored as a random order of the tied candidates would
be on average. So duplicates are neither favoured nor punished, the result does not depend on the order of the
candidates, and features that are all equal score chance rather than 100 or 0.
"""

import torch
from torch import Tensor
from torch.nn import functional


def normalised(features: Tensor) -> Tensor:
    """L2-normalise the last axis; a zero vector stays zero."""
    return functional.normalize(features, dim=-1)


def similarity(queries: Tensor, candidates: Tensor) -> Tensor:
    """Dot products [queries, candidates] at the features' precision, also inside an autocast region.

    Half precision makes ties out of differences, which changes ranks.
    """
    candidates = candidates.to(device=queries.device)
    dtype = torch.promote_types(queries.dtype, candidates.dtype)
    with torch.autocast(queries.device.type, enabled=False):
        return queries.to(dtype) @ candidates.to(dtype).T


def expected_hits(higher: Tensor, tied: Tensor, own: Tensor, k: int) -> Tensor:
    """Probability that the first k candidates hold a right one, over random orders of the ties.

    With s = k - higher places left for the tied group: 1 - C(tied - own, s) / C(tied, s).

    Args:
        higher: [queries] candidates that score strictly higher than the best right one.
        tied: [queries] candidates that score the same as the best right one, that one included.
        own: [queries] right candidates among the tied.
        k: Cut-off.

    Returns:
        [queries] float64 in 0 to 1; 0 or 1 where nothing is tied.
    """
    missed = torch.ones_like(higher, dtype=torch.float64)
    for place in range(k):
        wrong_left = (tied - own - place).clamp(min=0).double()
        drawn = missed * wrong_left / (tied - place).clamp(min=1)
        missed = torch.where(higher + place < k, drawn, missed)
    return 1 - missed
