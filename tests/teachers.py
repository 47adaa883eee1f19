"""Teachers of arithmetic, a corpus in memory, and caches of composed configs, for tests that need no real model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from datamodules.sources import Corpus, PairSource, PairStream
from protoclip.caches import Numbered, Sample, key_number
from protoclip.cli.teacher import Parts
from protoclip.cli.translate import translate
from protoclip.instantiate import instantiate
from protoclip.teachers import Encoder, TeacherCache
from protoclip.teachers.encode import encode_corpus
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


def make(
    cache: TeacherCache,
    corpus: Sequence[Sample] = CORPUS,
    *,
    name: str = "corpus",
    batch_size: int = 5,
    keys: Sequence[str] | None = None,
) -> bool:
    """Encode a corpus in memory; keys are numbers where none are given."""

    def samples(start: int) -> Iterator[Numbered]:
        for number in range(start, len(corpus)):
            yield key_number(keys[number] if keys else str(number)), corpus[number]

    return encode_corpus(cache, samples, corpus=name, pairs=len(corpus), batch_size=batch_size)


def hashed(folder: Path, dims: int | None = None, model: str = "hashes") -> TeacherCache:
    """The cache of the teacher in a folder."""
    return TeacherCache(str(folder), name="hashed", encoder=Hashes(model), dims=dims)


class Double(Hashes):
    """Noise in the place of an encoder's features, whose weights nobody has to load."""

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = width

    def describe(self) -> dict[str, Any]:
        """As the encoder."""
        return self.encoder.describe()

    def _encode(self, items: Sequence[Any]) -> Tensor:
        return torch.randn(len(items), self.width, generator=torch.Generator().manual_seed(crc32(items[0].encode())))


def fill_caches(config: DictConfig) -> DictConfig:
    """Finish the caches that a composed config reads, of its own corpus; returns the config."""
    data = translate(config)["data"]
    parts = instantiate(Parts, {name: data[name] for name in ("train", "teachers")}, "data")
    for cache in parts.teachers.values():
        text, cache.encoder = cache.kind == "text", Double(cache.encoder, cache.dims or DIM)
        pairs = _pairs(parts.train)
        items = [captions if text else [key] for key, captions in pairs]
        make(cache, items, name=parts.train.fingerprint, batch_size=64, keys=[key for key, _ in pairs])
    return config


def _pairs(corpus: Corpus) -> list[tuple[str, Sequence[str]]]:
    """Keys and captions."""
    if isinstance(corpus, PairStream):
        return [(raw.key, raw.captions) for raw in corpus.every(lambda _: None)]
    assert isinstance(corpus, PairSource)
    return [(corpus.key(index), corpus.captions(index)) for index in range(len(corpus))]
