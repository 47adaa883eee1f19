"""A labelled set from a folder of class folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from datamodules.classnames import read_classnames
from datamodules.labelled_files import LabelledFiles, without_empty
from datamodules.prompts import TEMPLATE, words


class ClassFolders(LabelledFiles):
    """Pictures ROOT/CLASS/*.jpg, at any depth below the class' folder: torchvision's ``ImageFolder``.

    Classes are in the order of their folders' names, or numbers; hidden files and folders are ignored.

    Args:
        root: The folder; or several, whose folders of one name are one class.
        classnames: Names, or a file with one a line; default: the folders' names as words. Names that the folders have,
            but for case and punctuation, may be in any order, and others are in the order of the folders.
        templates: Zero-shot prompts with one ``{}`` for the class name.
        folders: The class folders in the order of the labels, where neither is so.
        empty_classes: What happens to a class without any picture; one that is dropped has no prompt either.

    Raises:
        ValueError: there is no such folder, a class has no picture, or names and folders do not fit.
    """

    def __init__(
        self,
        root: str | Path | Sequence[str | Path],
        *,
        classnames: str | Path | Sequence[str] | None = None,
        templates: str | Sequence[str] = TEMPLATE,
        folders: Sequence[str] | None = None,
        empty_classes: Literal["error", "drop"] = "error",
    ) -> None:
        roots = [Path(one).expanduser() for one in ([root] if isinstance(root, str | Path) else root)]
        found = {folder for one in roots for folder in _class_folders(one)}
        if not found:
            raise ValueError(f"{roots[0]} holds no folder of a class: put pictures into {roots[0]}/CLASS/*.jpg")
        names = None if classnames is None else read_classnames(classnames)
        order = list(folders) if folders is not None else _ordered(found, names)
        if strange := sorted(found - {*order}):
            raise ValueError(f"{roots[0]}/{strange[0]} is none of the classes, {order[0]}, ...: mend names or folders")
        if names is None:
            names = [words(folder) for folder in order]
        if len(names) != len(order):
            raise ValueError(f"{roots[0]} has {len(order)} class folders, classnames has {len(names)}: give one each")
        base = os.path.commonpath(roots)
        numbers = {folder: number for number, folder in enumerate(order)}
        samples = [sample for one in roots for sample in _samples(one, numbers)]
        labels = np.array([label for _, label in samples], np.int64)
        if empty_classes == "drop":
            labels, names = without_empty(str(roots[0]), labels, names)
        paths = [path.removeprefix(base).lstrip(os.sep) for path, _ in samples]
        super().__init__(Path(base), paths, labels.tolist(), classnames=names, templates=templates)


def _class_folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: give the folder of the class folders")
    return [folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]


def _ordered(found: set[str], names: list[str] | None) -> list[str]:
    """The folders in the order of the labels: that of the names which they have, or else their own."""
    alike = {_letters(folder): folder for folder in found}
    if names is not None and any(_letters(name) in alike for name in names):
        return [name if name in found else alike.get(_letters(name), name) for name in names]
    return sorted(found, key=int if all(folder.isdecimal() for folder in found) else str)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _samples(root: Path, numbers: dict[str, int]) -> list[tuple[str, int]]:
    samples: list[tuple[str, int]] = make_dataset(str(root), numbers, IMG_EXTENSIONS, allow_empty=True)
    return [(path, label) for path, label in samples if not os.path.basename(path).startswith(".")]  # noqa: PTH119
