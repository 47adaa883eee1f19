"""COCO's captions: pictures with about five each, from one JSON file."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.locations import existing_file
from datamodules.packed_texts import PackedTexts
from datamodules.pictures import decode_picture, read_picture
from datamodules.sources import PairSource

logger = logging.getLogger(__name__)


class CocoPairs(PairSource):
    """The pictures of a captions file in its order, each with all of its captions in theirs.

    Pictures without any caption are left out, with a warning.

    Args:
        annotations: such as ``captions_train2017.json``, with ``images`` and ``annotations``.
        images: folder of the pictures.

    Attributes:
        fingerprint: SHA-256 of the file's bytes.

    Raises:
        ValueError: the file is missing, is no captions file, or has no caption.
    """

    def __init__(self, annotations: str | Path, images: str | Path) -> None:
        file = existing_file(annotations)
        content = file.read_bytes()
        self._images = Path(images).expanduser()
        captions, names = _captions_of(file, content)
        told = {image: texts for image, texts in captions.items() if texts}
        if not told:
            raise ValueError(f"{file} has no caption: give a captions_*.json, not instances_*.json")
        if left := len(captions) - len(told):
            logger.warning("%s: %d pictures have no caption and are left out", file, left)
            self.faults = {"missing_part": left}
        self._names = PackedTexts.pack(names[image] for image in told)
        self._captions = PackedTexts.pack(text for texts in told.values() for text in texts)
        self._first = np.cumsum([0, *map(len, told.values())])
        self.fingerprint = hashlib.sha256(content).hexdigest()

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


def _captions_of(file: Path, content: bytes) -> tuple[dict[int, list[str]], dict[int, str]]:
    """Captions and file names by the picture's number."""
    try:
        table = json.loads(content)
        names = {image["id"]: str(image["file_name"]) for image in table["images"]}
        captions: dict[int, list[str]] = {image: [] for image in names}
        for annotation in table["annotations"]:
            if text := " ".join(annotation.get("caption", "").split()):
                captions[annotation["image_id"]].append(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is no captions file of COCO ({reason}): fetch it again") from error
    return captions, names
