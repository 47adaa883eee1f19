"""The field's labelled sets by name, in whichever layout they lie under ``ROOT/NAME``.

Three layouts are looked for, and the first that is there is used: torchvision's; WebDataset shards as clip-benchmark
writes them (``SPLIT/0.tar`` with KEY.webp and KEY.cls, beside them ``classnames.txt`` and
``zeroshot_classification_templates.txt``), or named ``*-SPLIT-*.tar``; and class folders ``SPLIT/CLASS/*.jpg``.
"""

import glob
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.classnames import read_classnames
from datamodules.labelled_folders import ClassFolders
from datamodules.missing import MissingSet
from datamodules.prompts import Prompts, checked_templates, read_prompts
from datamodules.shards import ShardLabelled
from datamodules.sources import LabelledSource, Pictures
from datamodules.torchvision_sets import torchvision_set

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What is looked for; see ``labelled_set``."""

    folder: Path
    split: str
    dataset: str | None
    splits: Sequence[str]
    folders: Sequence[str]
    empty_classes: Literal["error", "drop"]
    prompts: Prompts
    classnames: list[str] | None
    """Of the config, where it gives some."""
    templates: list[str] | None
    """Of the config, where it gives some."""

    @property
    def words(self) -> dict[str, Any]:
        """Class names and templates of a layout that brings none."""
        return {
            "classnames": self.classnames or self.prompts.classnames,
            "templates": self.templates or self.prompts.templates,
        }


def labelled_set(
    name: str,
    root: str | Path,
    split: str = "test",
    *,
    expected: int | None = None,
    torchvision: str | None = None,
    splits: Sequence[str] = (),
    folders: Sequence[str] = (),
    empty_classes: Literal["error", "drop"] = "error",
    classnames: str | Path | Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
) -> Pictures:
    """A set of the field, with the class names and prompts of ``datamodules.prompts``.

    Class names and templates that lie beside shards are used instead: they belong to those labels, and clip-benchmark
    takes them too.

    Args:
        name: Of the set, of its folder, and of its prompts.
        root: Folder of all sets.
        split: ``test`` or ``train``.
        expected: Pictures of the split; another number is told, for its figures compare with no published one.
        torchvision: Name of torchvision's class, where there is one.
        splits: Its names of what makes the split, where that is not ``split`` alone.
        folders: Folders of class folders that make the split, where there is no folder ``split``.
        empty_classes: As for ``ClassFolders``; of torchvision's layout none may be empty.
        classnames: Instead of the prompts', in the order of the labels.
        templates: Instead of the prompts'.

    Returns:
        The set, or a ``MissingSet``.

    Raises:
        ValueError: the set is there and damaged.
    """
    wanted = Wanted(
        Path(root).expanduser() / name,
        split,
        torchvision,
        splits or (split,),
        folders,
        empty_classes,
        read_prompts(name),
        None if classnames is None else read_classnames(classnames),
        None if templates is None else checked_templates(templates),
    )
    refusals: list[str] = []
    for layout in LAYOUTS:
        if (found := layout(wanted, refusals.append)) is not None:
            tell_count(f"{name} ({split})", len(found), expected)
            return found
    return MissingSet(name, "; ".join([_mend(wanted), *refusals]))


def tell_count(name: str, found: int, expected: int | None) -> None:
    """Warn of another number of pictures than the field's."""
    if expected is not None and found != expected:
        logger.warning("%s has %d pictures, not %d: its figures compare with no published ones", name, found, expected)


def shards_of(folder: Path, split: str) -> list[str]:
    """The shards of a split: ``SPLIT/*.tar`` or ``*-SPLIT-*.tar``, each also with ``.gz``."""
    place = glob.escape(str(folder))
    patterns = [f"{place}/{split}/*.tar", f"{place}/*-{split}-*.tar"]
    return [name for pattern in patterns for name in glob.glob(pattern) + glob.glob(f"{pattern}.gz")]  # noqa: PTH207


def _torchvision(wanted: Wanted, refuse: Callable[[str], None]) -> LabelledSource | None:
    if wanted.dataset is None:
        return None
    for root in (wanted.folder, wanted.folder.parent):
        try:
            return torchvision_set(wanted.dataset, root, wanted.splits, **wanted.words)
        except (RuntimeError, OSError) as error:
            if root.is_dir() and root == wanted.folder:
                refuse(f"torchvision says: {' '.join(str(error).split()).split('. ')[0]}")
    return None


def _shards(wanted: Wanted, refuse: Callable[[str], None]) -> LabelledSource | None:
    shards = shards_of(wanted.folder, wanted.split)
    if not shards:
        return None
    words = wanted.words
    names, prompts = wanted.folder / "classnames.txt", wanted.folder / "zeroshot_classification_templates.txt"
    if names.is_file() and wanted.classnames is None:
        words["classnames"] = names
    if prompts.is_file() and wanted.templates is None:
        words["templates"] = [line.replace("{c}", "{}") for line in read_classnames(prompts)]
    if words["classnames"] is None:
        raise ValueError(f"{wanted.folder} has shards and no {names.name}: put one there, one name a line")
    return ShardLabelled(shards, empty_classes=wanted.empty_classes, **words)


def _folders(wanted: Wanted, refuse: Callable[[str], None]) -> LabelledSource | None:
    for folders in ((wanted.split,), wanted.folders):
        places = [wanted.folder / folder for folder in folders]
        if any(place.is_dir() for place in places):
            order = None if wanted.classnames else wanted.prompts.folders
            found = ClassFolders(places, folders=order, empty_classes=wanted.empty_classes, **wanted.words)
            if wanted.words["classnames"] is None and all(name.isdecimal() for name in found.classnames):
                raise ValueError(f"{places[0]}: its class folders are numbers: give their names as classnames")
            return found
    return None


Layout = Callable[[Wanted, Callable[[str], None]], LabelledSource | None]
LAYOUTS: tuple[Layout, ...] = (_torchvision, _shards, _folders)
"""How a set may lie on the disk; None says that it does not lie so."""


def _mend(wanted: Wanted) -> str:
    folders = " + ".join(wanted.folders or (wanted.split,))
    ways = [f"folders {folders}/CLASS/*.jpg", f"shards {wanted.split}/*.tar"]
    if wanted.dataset is not None:
        ways.insert(0, f"what torchvision's {wanted.dataset} reads")
    return f"put {', or '.join(ways)} into {wanted.folder}, or set evaluation.root or PROTOCLIP_SETS"
