"""A teacher of arithmetic and a corpus in memory, for tests that need no real model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn

from protoclip.teachers import Encoder, TeacherCache
from protoclip.teachers.encode import Sample, encode_corpus
from protoclip.teachers.encoders import Kind

DIM = 6
CORPUS: tuple[tuple[str, ...], ...] = tuple(tuple(f"caption {i} {j}" for j in range(1 + i % 3)) for i in range(20))
"""Pairs of one, two and three captions."""


class Hashes(Encoder):
    """Features that are a function of an item's text."""

    kind: ClassVar[Kind] = "text"

    def __init__(self, model: str = "hashes") -> None:
        super().__init__("cpu")
        self.model = model
        self.batches: list[int] = []

    def describe(self) -> dict[str, Any]:
        """The name."""
        return {"model": self.model}

    def _load(self) -> tuple[Any, nn.Module]:
        return None, nn.Linear(1, 1)

    def _encode(self, items: Sequence[Any]) -> Tensor:
        self.batches.append(len(items))
        draws = [torch.Generator().manual_seed(crc32(str(item).encode())) for item in items]
        return torch.stack([torch.randn(DIM, generator=draw) for draw in draws])


class PictureHashes(Hashes):
    """The same as an image teacher."""

    kind = "image"


def make(cache: TeacherCache, corpus: Sequence[Sample] = CORPUS, *, name: str = "corpus", batch_size: int = 5) -> bool:
    """Encode a corpus in memory."""

    def samples(start: int) -> Iterator[Sample]:
        yield from corpus[start:]

    return encode_corpus(cache, samples, corpus=name, pairs=len(corpus), batch_size=batch_size)


def hashed(folder: Path, dims: int | None = None, model: str = "hashes") -> TeacherCache:
    """The cache of the teacher in a folder."""
    return TeacherCache(str(folder), name="hashed", encoder=Hashes(model), dims=dims)
