"""Projected features of every pair at its last visit in training: prototypes without an extraction pass.

Memory-mapped files: ``features.npy`` float16 [pairs, 2, dim], image and text, ``captions.npy`` int32 [pairs], which of
the pair's captions that was, and ``visited.npy`` int32 [pairs], the episode of the last visit or -1. What an episode
visits reaches the files when the next one begins, once a checkpoint holds it; a run that goes on from a checkpoint
writes it again, which changes nothing.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor


class Visits(NamedTuple):
    """What one episode recorded."""

    episode: int
    indices: Tensor
    """Each pair's place in the corpus [visits], the later visit last."""
    captions: Tensor
    """Which of its captions was drawn [visits]."""
    features: Tensor
    """Image and text features, float16 [visits, 2, dim]."""


class FeatureRecord:
    """The record of one run.

    Args:
        folder: of the files.
        pairs: of the corpus.
        dim: width of the projected features.
        resumed: whether the files of an earlier process are gone on with, or new ones made.

    Raises:
        ValueError: the files to go on with are not there, or of another size.
    """

    def __init__(self, folder: str | os.PathLike[str], pairs: int, dim: int, *, resumed: bool = False) -> None:
        folder = Path(folder)
        shapes = {"features": (pairs, 2, dim), "captions": (pairs,), "visited": (pairs,)}
        if resumed:
            try:
                arrays = {name: _opened(folder / f"{name}.npy") for name in shapes}
            except (EOFError, OSError, ValueError) as error:
                raise ValueError(f"{folder} cannot be read ({error}): remove the run and start again") from error
            if any(arrays[name].shape != shape for name, shape in shapes.items()):
                raise ValueError(f"{folder} is of another corpus or head: remove the run and start again")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            types = {"features": np.float16, "captions": np.int32, "visited": np.int32}
            arrays = {
                name: open_memmap(folder / f"{name}.npy", mode="w+", dtype=types[name], shape=shape)
                for name, shape in shapes.items()
            }
            arrays["visited"][:] = -1
        self._features, self._captions, self._visited = arrays.values()

    def forget_after(self, episode: int) -> int:
        """Take the visits of later episodes for none, whose features a checkpoint cannot know; how many there were."""
        later = self._visited > episode
        self._visited[later] = -1
        return int(later.sum())

    def write(self, visits: Visits) -> None:
        """Put an episode's visits into the files, durably.

        The episode comes first: what a kill tears between the two is then forgotten by a run that goes on before it.
        """
        indices = visits.indices.numpy()
        self._visited[indices] = visits.episode
        self._visited.flush()
        self._captions[indices] = visits.captions.numpy()
        self._features[indices] = visits.features.numpy()
        for array in (self._captions, self._features):
            array.flush()

    def visited(self, indices: Tensor) -> Tensor:
        """Episode of the last visit of each pair [pairs], int64, or -1."""
        return torch.from_numpy(self._visited[indices.numpy()].astype(np.int64))

    def captions(self, indices: Tensor) -> Tensor:
        """Which caption of each pair was drawn at its last visit [pairs], int64."""
        return torch.from_numpy(self._captions[indices.numpy()].astype(np.int64))

    def features(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Image and text features of pairs that were visited, float32 [pairs, dim] each, of unit length."""
        both = torch.from_numpy(self._features[indices.numpy()].astype(np.float32))
        image, text = torch.nn.functional.normalize(both, dim=-1).unbind(dim=1)
        return image.contiguous(), text.contiguous()


def _opened(path: Path) -> Any:
    np.load(path, mmap_mode="r")  # refuses a short file, which r+ would fill up with zeros
    return np.load(path, mmap_mode="r+")
