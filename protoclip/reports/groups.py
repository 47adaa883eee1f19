"""Groups of samples made ready to look at: clusters numbered like the classes, and groups drawn whole."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def matched_clusters(clusters: Tensor, labels: Tensor) -> Tensor:
    """Number clusters like the classes that they match, one to one, so that most samples agree (Hungarian method).

    Args:
        clusters: cluster of each sample [samples].
        labels: its class [samples].

    Returns:
        The new numbers [samples]; clusters that are left over get the numbers that no class has.

    Raises:
        ValueError: the counts differ, there are none, or a number is negative.
    """
    if clusters.shape != labels.shape or clusters.ndim != 1 or not len(labels):
        raise ValueError(f"clusters {list(clusters.shape)} and labels {list(labels.shape)} are not of the same samples")
    if min(int(clusters.min()), int(labels.min())) < 0:
        raise ValueError("clusters and labels must not be negative: leave out samples without a class")
    size = max(int(clusters.max()), int(labels.max())) + 1
    shared = torch.bincount(clusters * size + labels, minlength=size**2).reshape(size, size)
    _, numbers = linear_sum_assignment(shared.cpu().numpy(), maximize=True)
    return torch.from_numpy(numbers).to(clusters)[clusters]


def whole_groups(groups: Tensor, samples: int, *, seed: int = 0) -> Tensor:
    """Draw groups at random until they hold enough samples: a random part of the samples would tear them apart.

    Args:
        groups: group of each sample [samples], negative where it has none.
        samples: to draw, at most; the last group may be cut.
        seed: draws the groups.

    Returns:
        Places of the drawn samples, ascending.
    """
    grouped = (groups >= 0).nonzero().squeeze(1)
    ranks = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(seed)).to(groups.device)
    return grouped[ranks[groups[grouped]].argsort(stable=True)[:samples]].sort().values
