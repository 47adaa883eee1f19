"""A small corpus in shards, and the words that train on it as a stream or by index."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.datamodules.test_shards import Member, write_tar

WORDS = ("red", "green", "blue", "bright", "dark", "round", "square", "small", "large", "old")


def picture(number: int) -> bytes:
    """A JPEG of a gradient with noise."""
    generator = np.random.default_rng(number)
    y, x, channel = np.ogrid[:40, :48, :3]
    pixels = 3 * x + 2 * y + 40 * (channel + number % 5) + generator.integers(0, 40, (40, 48, 3))
    buffer = io.BytesIO()
    Image.fromarray((pixels % 256).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def members(number: int) -> list[Member]:
    """A pair, of which every third has two captions."""
    captions = [f"a {WORDS[number % 10]} {WORDS[number // 10 % 10]} thing number {number}"]
    captions += [f"number {number} again"] * (number % 3 == 0)
    return [(f"{number:03d}.jpg", picture(number)), (f"{number:03d}.txt", "\n".join(captions).encode())]


def write_corpus(folder: Path, pairs: int = 64, shards: int = 8, *, broken: tuple[int, ...] = ()) -> str:
    """Shards of a corpus; pairs of some numbers have pictures that are none. Returns the pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, numbers in enumerate(np.array_split(np.arange(pairs), shards)):
        files = [member for number in numbers.tolist() for member in members(number)]
        spoilt = {f"{number:03d}.jpg" for number in broken}
        write_tar(folder / f"{shard:03d}.tar", [(name, b"none" if name in spoilt else data) for name, data in files])
    return f"{folder}/*.tar"


def streamed(pattern: str, *more: str, lanes: int = 4, shuffle: int = 5) -> tuple[str, ...]:
    """Overrides of a tiny config that read the corpus as a stream."""
    source = f"{{_target_: datamodules.streams.ShardStream, shards: '{pattern}', lanes: {lanes}, shuffle: {shuffle}}}"
    return ("~data.train", f"+data.train={source}", *more)


def indexed(pattern: str, *more: str) -> tuple[str, ...]:
    """Overrides of a tiny config that read the corpus by index."""
    source = f"{{_target_: datamodules.shards.ShardPairs, shards: '{pattern}'}}"
    return ("~data.train", f"+data.train={source}", *more)
