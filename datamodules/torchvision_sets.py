"""Labelled sets as torchvision keeps them on the disk, opened by its own classes, which download nothing here."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets

from datamodules.labelled_files import LabelledFiles, check_labels
from datamodules.prompts import checked_templates
from datamodules.sources import LabelledSource


class LabelledArrays(LabelledSource):
    """Pictures of one size in the memory.

    Args:
        pixels: uint8 [n, height, width, 3].
        labels: A class for each, counted from 0.
        name: What errors call the set; enters the fingerprint.
        classnames: In the order of the labels.
        templates: Zero-shot prompts with one ``{}`` for the class name.

    Attributes:
        fingerprint: SHA-256 of name, size, labels and class names; torchvision has compared the files with their MD5.

    Raises:
        ValueError: a label is out of range, or a class has no picture.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: Sequence[int],
        *,
        name: str,
        classnames: Sequence[str],
        templates: str | Sequence[str],
    ) -> None:
        self._pixels = pixels
        self._labels = np.asarray(labels, np.int64)
        self.classnames = list(classnames)
        self.templates = checked_templates(templates)
        check_labels(name, self._labels, self.classnames)
        described = json.dumps([name, pixels.shape, self.classnames]).encode()
        self.fingerprint = hashlib.sha256(described + self._labels.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._labels)

    def image(self, index: int) -> Tensor:
        """The RGB picture of a sample."""
        return torch.from_numpy(np.ascontiguousarray(self._pixels[index])).permute(2, 0, 1)

    def label(self, index: int) -> int:
        """The class of a sample."""
        return int(self._labels[index])


def torchvision_set(
    dataset: str,
    root: str | Path,
    splits: Sequence[str],
    *,
    classnames: Sequence[str] | None = None,
    templates: str | Sequence[str],
) -> LabelledSource:
    """A set of torchvision's layout.

    Args:
        dataset: Name of torchvision's class.
        root: What that class is given as its root.
        splits: Its names of the splits that are joined.
        classnames: In the order of the labels; default: torchvision's, underscores as spaces.
        templates: Zero-shot prompts with one ``{}`` for the class name.

    Raises:
        RuntimeError, OSError: torchvision does not find the set, or not whole.
        ValueError: the set and its class names do not fit.
    """
    made: Any = getattr(datasets, dataset)
    root = Path(root).expanduser()
    parts = [made(root, **_split(made, split)) for split in splits]
    if classnames is None:
        classnames = [name.replace("_", " ") for name in parts[0].classes]
    prompts: dict[str, Any] = {"classnames": classnames, "templates": templates}
    if isinstance(parts[0], datasets.CIFAR10 | datasets.STL10):
        pixels = np.concatenate([_pixels(part) for part in parts])
        labels = np.concatenate([part.labels if hasattr(part, "labels") else part.targets for part in parts])
        return LabelledArrays(pixels, labels.tolist(), name=f"{dataset} {'+'.join(splits)}", **prompts)
    samples = [sample for part in parts for sample in _samples(part)]
    paths = [str(path).removeprefix(str(root)).lstrip("/") for path, _ in samples]
    return LabelledFiles(root, paths, [int(label) for _, label in samples], **prompts)


def _split(made: Any, split: str) -> dict[str, Any]:
    """The argument that chooses a split: of some classes only whether it is for training."""
    return {"train": split == "train"} if "train" in inspect.signature(made).parameters else {"split": split}


def _pixels(part: Any) -> NDArray[np.uint8]:
    """Channels last; STL10 has them first."""
    pixels: NDArray[np.uint8] = part.data
    return pixels if pixels.shape[-1] == 3 else pixels.transpose(0, 2, 3, 1)


def _samples(part: Any) -> list[tuple[Any, Any]]:
    """Path and label of each picture, which torchvision keeps under several names."""
    members = vars(part)
    pairs = members.get("samples") or members.get("_samples")
    if pairs is None:
        pairs = zip(members.get("_image_files") or members["_images"], members["_labels"], strict=True)
    return list(pairs)
