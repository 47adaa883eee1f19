"""Pictures that are files, each with some captions of an annotation file."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.packed_texts import PackedTexts
from datamodules.pictures import decode_picture, read_picture
from datamodules.sources import PairSource

logger = logging.getLogger(__name__)


class CaptionedFiles(PairSource):
    """Files with their captions, in the order of an annotation file.

    Pictures without any caption are left out, with a warning.

    Args:
        annotations: the file.
        images: folder of the pictures.
        content: what the fingerprint is of: the file's bytes, and what selects from them.
        told: path of each picture in the folder, and its captions.

    Attributes:
        fingerprint: SHA-256 of the content, and of the sizes of the pictures that are there.

    Raises:
        ValueError: no picture has a caption.
    """

    def __init__(
        self, annotations: Path, images: str | Path, content: bytes, told: Sequence[tuple[str, Sequence[str]]]
    ) -> None:
        self._images = Path(images).expanduser()
        kept = [(name, captions) for name, captions in told if captions]
        if not kept:
            raise ValueError(f"{annotations} has no caption: give a captions_*.json, not instances_*.json")
        if left := len(told) - len(kept):
            logger.warning("%s: %d pictures have no caption and are left out", annotations, left)
            self.faults = {"missing_part": left}
        self._names = PackedTexts.pack(name for name, _ in kept)
        self._captions = PackedTexts.pack(text for _, captions in kept for text in captions)
        self._first = np.cumsum([0, *(len(captions) for _, captions in kept)])
        sizes = np.array([_size(os.path.join(self._images, name)) for name, _ in kept], np.int64)  # noqa: PTH118 (of many)
        self.fingerprint = hashlib.sha256(content + sizes.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        """The name of its picture."""
        return self._names[index]

    def image(self, index: int) -> Tensor:
        """The RGB picture of a sample.

        Raises:
            UnreadableSample: it is missing or broken.
        """
        return decode_picture(self.encoded(index), str(self.file(index)))

    def file(self, index: int) -> Path:
        """Where the picture is."""
        return self._images / self._names[index]

    def encoded(self, index: int) -> bytes:
        """The picture's file.

        Raises:
            UnreadableSample: it is missing.
        """
        return read_picture(self.file(index), "check the folder of the pictures")

    def captions(self, index: int) -> list[str]:
        """All captions of a sample."""
        return [self._captions[row] for row in range(self._first[index], self._first[index + 1])]

    def label(self, index: int) -> int:
        """-1: a picture has many objects, and no class."""
        return -1


def _size(path: str) -> int:
    """Bytes of a file; -1 where it is missing, which reading tells."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 (of many)
    except OSError:
        return -1
