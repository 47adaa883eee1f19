"""Rendered pictures, kept where forked processes see them too."""

import math
import mmap
from functools import lru_cache

import numpy as np


class PictureCache:
    """Rendered pictures in anonymous shared memory, which forked loader workers fill for each other.

    Two workers may render the same picture; they write the same bytes. Unpickled copies start empty.
    """

    def __init__(self, size: int, image_size: int) -> None:
        self.shape = (size, 3, image_size, image_size)
        self.pixels = np.frombuffer(mmap.mmap(-1, math.prod(self.shape)), np.uint8).reshape(self.shape)
        self.filled = np.frombuffer(mmap.mmap(-1, size), np.uint8)

    def __reduce__(self) -> tuple[type["PictureCache"], tuple[int, int]]:
        return type(self), (self.shape[0], self.shape[2])


@lru_cache(maxsize=32)
def picture_cache(identity: object, size: int, image_size: int) -> PictureCache:
    """The cache of one set of pictures, shared by all sources of that identity in a process: a sweep renders once."""
    return PictureCache(size, image_size)
