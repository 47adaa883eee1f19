"""Pictures that are files, each of one class: what folders, tables and torchvision's sets come to."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.packed_texts import PackedTexts
from datamodules.pictures import decode_picture, read_picture
from datamodules.prompts import checked_templates
from datamodules.sources import LabelledSource

logger = logging.getLogger(__name__)


class LabelledFiles(LabelledSource):
    """Files with labels.

    Args:
        root: Folder that the paths are relative to.
        paths: Of the pictures.
        labels: A class for each, counted from 0.
        classnames: In the order of the labels.
        templates: Zero-shot prompts with one ``{}`` for the class name.

    Attributes:
        fingerprint: SHA-256 of paths, sizes, labels and class names; not of the folder, times, pixels.

    Raises:
        ValueError: there is no picture, one is missing, a label is out of range, or a class has no picture.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int],
        *,
        classnames: Sequence[str],
        templates: str | Sequence[str],
    ) -> None:
        if not paths:
            raise ValueError(f"{root} holds no picture of a class: check the path")
        self._root = root
        self._paths = PackedTexts.pack(paths)
        self._labels = np.asarray(labels, np.int64)
        self.classnames = list(classnames)
        self.templates = checked_templates(templates)
        check_labels(str(root), self._labels, self.classnames)
        described = json.dumps([self.classnames, self._sizes(paths)]).encode()
        self.fingerprint = hashlib.sha256(described + self._paths.data + self._labels.tobytes()).hexdigest()

    def _sizes(self, paths: Sequence[str]) -> list[int]:
        sizes, missing = [], []
        for path in paths:
            try:
                sizes.append(os.stat(os.path.join(self._root, path)).st_size)  # noqa: PTH116, PTH118 (of a million files)
            except OSError:
                missing.append(path)
        if missing:
            raise ValueError(
                f"{self._root} lacks {len(missing)} of {len(paths)} pictures, such as {missing[0]}: bring them back"
            )
        return sizes

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int) -> Tensor:
        """The RGB picture of a sample.

        Raises:
            UnreadableSample: it is gone or broken.
        """
        path = self.file(index)
        return decode_picture(read_picture(path, "bring it back"), str(path))

    def file(self, index: int) -> Path:
        """Where the picture is."""
        return self._root / self._paths[index]

    def label(self, index: int) -> int:
        """The class of a sample."""
        return int(self._labels[index])


def check_labels(place: str, labels: np.ndarray, classnames: Sequence[str]) -> None:
    """Refuse labels that do not fit the names.

    Args:
        place: What errors call the set.
        labels: Of all pictures.
        classnames: In the order of the labels.

    Raises:
        ValueError: a label has no name, or a class no picture.
    """
    outside = labels[(labels < 0) | (labels >= len(classnames))]
    if len(outside):
        raise ValueError(
            f"{place}: label {outside[0]} is not in 0..{len(classnames) - 1}: mend the labels, or give all class names"
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=len(classnames)) == 0)
    if len(empty):
        raise ValueError(
            f"{place}: {len(empty)} of {len(classnames)} classes have no picture, such as "
            f"{classnames[empty[0]]!r}: add pictures, or leave the class out"
        )


def without_empty(place: str, labels: np.ndarray, classnames: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Leave out the classes without a picture, and say how many they are.

    Args:
        place: What the warning calls the set.
        labels: Of all pictures, each with a name.
        classnames: In the order of the labels.

    Returns:
        Labels and names of the classes that are left, in their order.
    """
    kept, renumbered = np.unique(labels, return_inverse=True)
    if dropped := len(classnames) - len(kept):
        logger.warning("%s: %d classes without any picture are left out", place, dropped)
    return renumbered, [classnames[label] for label in kept]
