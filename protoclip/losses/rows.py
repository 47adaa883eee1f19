"""Which rows of matched features a loss compares."""

from typing import NamedTuple

from torch import Tensor


class Compared(NamedTuple):
    """Rows that take part, and the anchors among them."""

    features: tuple[Tensor, ...]
    """Each [candidates, ...], matched by row."""
    anchors: slice
    """The anchors among the candidates."""
    divisor: float
    """What a sum over the anchors is divided by: slices of the batch then average to the mean over all its anchors."""


def compared(*features: Tensor, rows: slice | None, valid: Tensor | None) -> Compared:
    """Leave rows out of matched features, as anchors and as candidates.

    Args:
        features: each [batch, ...], matched by row.
        rows: consecutive anchors; None for all.
        valid: bool [batch], the rows that take part; None for all.

    Raises:
        ValueError: rows that do not match.
    """
    if len({len(value) for value in features}) > 1:
        counts = ", ".join(str(len(value)) for value in features)
        raise ValueError(f"a contrast needs matched rows, got {counts}: pass as many of each")
    batch = len(features[0])
    start, stop, _ = (rows or slice(None)).indices(batch)
    if valid is None:
        return Compared(features, slice(start, stop), stop - start)
    before, inside = int(valid[:start].sum()), int(valid[start:stop].sum())
    divisor = (stop - start) * int(valid.sum()) / batch
    return Compared(tuple(value[valid] for value in features), slice(before, before + inside), divisor or 1.0)
