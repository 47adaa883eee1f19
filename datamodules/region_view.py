"""The view of a picture's regions: features of the boxes that a detector found, as the image tower reads them."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.sources import Corpus, placed
from protoclip.ranges import PositiveInt


class RegionRows(Protocol):
    """Regions of a corpus, kept beside it."""

    @property
    def dim(self) -> int:
        """Numbers of a box."""

    def serve(self, fingerprint: str | None, /) -> None:
        """Refuse another corpus by a ValueError; None is a stream, whose pairs are asked for by key."""

    def row(self, index: int, /) -> Any:
        """The boxes of a picture, [boxes, dim], the best first."""


class Regions:
    """A fixed number of boxes; those that a picture does not have are rows of zeros.

    Args:
        rows: what ``protoclip regions`` wrote; None for a corpus that has regions of its own.
        boxes: most boxes of a picture.
    """

    def __init__(self, rows: RegionRows | None = None, boxes: PositiveInt = 10) -> None:
        self.rows = rows
        self.boxes = boxes

    def check(self, source: Corpus) -> None:
        """Refuse a corpus without regions.

        Raises:
            ValueError: it has none, or these are another's.
        """
        if self.rows is not None:
            self.rows.serve(placed(source))
        elif not hasattr(source, "regions"):
            raise ValueError("the corpus has no regions: write them by protoclip regions, and add detector=NAME")

    def dim(self, source: Corpus) -> int:
        """Numbers of a box, which the image tower's ``roi_dim`` should be."""
        return int(self._found(source, 0).shape[1]) if self.rows is None else self.rows.dim

    def __call__(self, source: Corpus, index: int) -> Tensor:
        """The regions of a pair, float32 [boxes, dim]."""
        found = self._found(source, index)[: self.boxes]
        regions = torch.zeros(self.boxes, found.shape[1])
        regions[: len(found)] = found
        return regions

    def _found(self, source: Corpus, index: int) -> Tensor:
        rows: Any = source
        found = rows.regions(index) if self.rows is None else self.rows.row(index)
        return found if isinstance(found, Tensor) else torch.from_numpy(np.array(found))  # which may be read-only
