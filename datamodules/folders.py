"""Image-text pairs from a folder of pictures and caption files."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.packed_texts import PackedTexts
from datamodules.pictures import decode_picture, read_picture
from datamodules.shards import IMAGE_KEYS, json_object
from datamodules.sources import FaultKind, PairSource

logger = logging.getLogger(__name__)


class FolderPairs(PairSource):
    """Pairs of a folder, at any depth: pictures KEY.jpg, .jpeg, .png or .webp with KEY.txt, one caption a line.

    What img2dataset writes with ``output_format=files``. Pairs are sorted by their keys. Those that lack a picture or a
    caption, or whose captions are not UTF-8, are left out with a warning; hidden files, others, and folders that are
    links are ignored.

    Args:
        root: the folder.

    Attributes:
        fingerprint: SHA-256 of keys, caption files and sizes of pictures.
        faults: pairs that are left out.

    Raises:
        ValueError: there is no such folder, or no complete pair in it.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).expanduser()
        if not self._root.is_dir():
            raise ValueError(f"{root} is no folder: give the folder of the pairs, or use data=manifest or data=shards")
        faults: Counter[FaultKind] = Counter()
        digest = hashlib.sha256()
        pictures: list[str] = []
        captions: list[list[str]] = []
        for key, suffixes in sorted(_listed(self._root).items()):
            suffix = next((suffixes[known] for known in IMAGE_KEYS if known in suffixes), None)
            if suffix is None or "txt" not in suffixes:
                faults["missing_part"] += 1
                continue
            try:
                content = (self._root / f"{key}.{suffixes['txt']}").read_bytes()
                size = (self._root / f"{key}.{suffix}").stat().st_size
            except OSError:  # a link to nowhere, or a file that may not be read
                faults["missing_file"] += 1
                continue
            lines, kind = _lines(content)
            if not lines:
                faults[kind] += 1
                continue
            digest.update(json.dumps([key, size, len(content)]).encode() + content)
            pictures.append(f"{key}.{suffix}")
            captions.append(lines)
        self.faults = dict(faults)
        if not pictures:
            raise ValueError(f"{root} holds no pair: it needs pictures KEY.jpg and captions KEY.txt of the same names")
        if faults:
            told = ", ".join(f"{kind}: {number}" for kind, number in sorted(faults.items()))
            logger.warning("%d pairs of %s are left out (%s)", faults.total(), root, told)
        self._pictures = PackedTexts.pack(pictures)
        self._captions = PackedTexts.pack(line for lines in captions for line in lines)
        self._first = np.fromiter(accumulate(map(len, captions), initial=0), np.int64)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._pictures)

    def key(self, index: int) -> str:
        """The path of a pair in the folder, without suffix."""
        return os.path.splitext(self._pictures[index])[0]  # noqa: PTH122 (a Path would tidy it)

    def image(self, index: int) -> Tensor:
        """The RGB picture of a pair.

        Raises:
            UnreadableSample: it is gone or broken.
        """
        return decode_picture(self.encoded(index), str(self.file(index)))

    def file(self, index: int) -> Path:
        """Where the picture is."""
        return self._root / self._pictures[index]

    def encoded(self, index: int) -> bytes:
        """The picture's file.

        Raises:
            UnreadableSample: it is gone.
        """
        return read_picture(self.file(index), "bring it back")

    def fields(self, index: int) -> dict[str, Any]:
        """KEY.json beside a pair, empty where there is none.

        Raises:
            UnreadableSample: it is no JSON object.
        """
        path = self._root / f"{self.key(index)}.json"
        return json_object(path.read_bytes(), str(path)) if path.exists() else {}

    def captions(self, index: int) -> list[str]:
        """All captions of a pair, without blank lines."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        return [self._captions[row] for row in range(self._first[index], self._first[index + 1])]

    def label(self, index: int) -> int:
        """-1: pairs have no classes."""
        return -1


def _listed(root: Path) -> dict[str, dict[str, str]]:
    """Suffixes of each key, lower case, as they are written."""
    found: dict[str, dict[str, str]] = {}
    for key, suffix in _files(str(root), ""):
        if suffix.lower() in {*IMAGE_KEYS, "txt"}:
            # Of two that differ in case alone the same one is used everywhere.
            suffixes = found.setdefault(key, {})
            suffixes[suffix.lower()] = max(suffix, suffixes.get(suffix.lower(), suffix))
    return found


def _files(folder: str, place: str) -> Iterator[tuple[str, str]]:
    """Key and suffix of each file, but for hidden ones."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{place}{entry.name}/")
            else:
                key, dot, suffix = entry.name.rpartition(".")
                if dot:
                    yield place + key, suffix


def _lines(content: bytes) -> tuple[list[str], FaultKind]:
    """Captions of a file that are not blank, and what is wrong where there is none."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], "bad_text"
    return [line.strip() for line in text.split("\n") if line.strip()], "missing_part"
