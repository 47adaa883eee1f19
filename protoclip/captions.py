"""Encodes captions without the padding behind them, which is most of what a text tower reads."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 128
"""Captions of like length that are encoded at once."""


def encode_by_length(encode: Callable[[Tensor], dict[str, Tensor]], ids: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """What ``encode`` gives of captions, but for rounding, with zeros in the places of tokens that are not read.

    Args:
        encode: from token ids [batch, length] to outputs by name, [batch, ...]; for it a caption cut at its length is
            the same caption.
        ids: of captions [captions, context].
        lengths: how many ids of each are read [captions].

    Returns:
        The outputs in the captions' order; those of tokens, [captions, length, ...], filled up to the context.
    """
    context = ids.shape[1]
    lengths, order = lengths.sort(stable=True)
    ends = lengths.tolist()
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, len(ids), ROWS):
        rows = order[start : start + ROWS]
        longest = ends[start + len(rows) - 1]
        for name, value in encode(ids[rows, :longest]).items():
            columns.setdefault(name, []).append(_filled(value, longest, context))
    back = order.argsort()
    return {name: torch.cat(parts)[back] for name, parts in columns.items()}


def _filled(value: Tensor, length: int, context: int) -> Tensor:
    """Tokens, and their mask, as many as the context; other outputs as they are."""
    if length == context or value.shape[1] != length or not (value.ndim == 3 or value.dtype == torch.bool):
        return value
    return F.pad(value, (0, 0) * (value.ndim - 2) + (0, context - length))
