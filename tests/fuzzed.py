"""Shards, manifests and pictures of a few pairs, damaged at random: what a disk, a network and a crawler do to them."""

import csv
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

NUMBERS = range(5)


@dataclass(frozen=True)
class Fuzzed:
    """A damaged file."""

    name: str
    """Of the file; what is before the dash is the kind."""
    data: bytes
    whole: bytes
    """What it was."""
    damage: str
    at: int
    """The first byte that is another; those before are what they were."""

    def __str__(self) -> str:
        return f"{self.name}: {self.damage} at {self.at} of {len(self.whole)}"


def picture(number: int, kind: str = "PNG", side: int = 24) -> bytes:
    """An encoded picture of noise."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def caption(number: int) -> str:
    """A caption with what tables quote."""
    return f'picture, "{number}" 犬'


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in NUMBERS:
            name = "犬" * 40 if number == 2 else f"k{number}"  # with an extended header
            for kind, content in (("png", picture(number)), ("txt", caption(number).encode())):
                info = tarfile.TarInfo(f"{name}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _rows() -> list[dict[str, str]]:
    return [{"filepath": f"{number}.png", "title": caption(number)} for number in NUMBERS]


def _table(separator: str) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["filepath", "title"], delimiter=separator)
    writer.writeheader()
    writer.writerows(_rows())
    return buffer.getvalue().encode()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(_rows()).to_parquet(buffer)
    return buffer.getvalue()


WHOLE: dict[str, bytes] = {
    "tar": _tar(),
    "tar.gz": gzip.compress(_tar(), mtime=0),
    "csv": _table(","),
    "tsv": _table("\t"),
    "jsonl": "\n".join(map(json.dumps, _rows())).encode(),
    "parquet": _parquet(),
    **{kind.lower(): picture(0, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")},
}
"""A file of each kind, by its ending."""
SHARE = {"tar": 10, "tar.gz": 5, "csv": 1, "tsv": 1, "jsonl": 1, "parquet": 1}
"""How often each kind is drawn; pictures once each."""


def headers(tar: bytes) -> list[int]:
    """Where the headers of a tar begin, the extended ones too."""
    found, offset = [], 0
    while any(tar[offset : offset + 512]):
        found.append(offset)
        offset += 512 + -(-int(tar[offset + 124 : offset + 135], 8) // 512) * 512
    return found


def _flip(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    places = sorted(draw.randrange(len(data)) for _ in range(draw.choice((1, 1, 3, 20))))
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed), places[0]


def _cut(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    at = draw.randrange(len(data))
    return data[:at], at


def _remove(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.choice((1, 7, 512, 700)) :], at


def _insert(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.choice((1, 7, 512, 700))) + data[at:], at


def _overwrite(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    at, size = draw.randrange(len(data)), draw.choice((8, 512, 2000))
    piece = draw.choice((bytes(size), b"\xff" * size, draw.randbytes(size), data[:size]))
    return data[:at] + piece + data[at + size :], at


def _repeat(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    at = draw.randrange(len(data))
    return data[:at] + data[draw.randrange(at + 1) :], at


def _lie(data: bytes, draw: random.Random) -> tuple[bytes, int]:
    """A header with a right checksum and a field that is wrong."""
    at = draw.choice(headers(data))
    block = bytearray(data[at : at + 512])
    size = draw.choice((0, 1, 511, 10**6, 2**33, 2**60, -1, -512, -1024, -(2**60)))
    if draw.random() < 0.5:
        block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    else:
        block[156:157] = bytes([draw.choice(b"0123456789LKSxgXDVM\0\xff")])
    if draw.random() < 0.3:
        place = draw.randrange(500)
        block[place : place + 4] = draw.randbytes(len(block[place : place + 4]))
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return data[:at] + bytes(block) + data[at + 512 :], at


DAMAGES: dict[str, Callable[[bytes, random.Random], tuple[bytes, int]]] = {
    "flip": _flip,
    "cut": _cut,
    "remove": _remove,
    "insert": _insert,
    "overwrite": _overwrite,
    "repeat": _repeat,
}


def fuzzed(seed: int, number: int) -> Iterator[Fuzzed]:
    """So many damaged files, by the seed."""
    draw = random.Random(seed)
    kinds = [kind for kind in WHOLE for _ in range(SHARE.get(kind, 1))]
    for case in range(number):
        kind = draw.choice(kinds)
        damage = draw.choice([*DAMAGES, *(["lie", "lie"] if kind == "tar" else [])])
        data, at = (_lie if damage == "lie" else DAMAGES[damage])(WHOLE[kind], draw)
        yield Fuzzed(f"{case}.{kind}", data, WHOLE[kind], damage, at)
