"""The field's sets for image-text retrieval by name, in whichever layout they lie under ``ROOT/NAME``."""

from collections.abc import Callable
from pathlib import Path

from datamodules.coco import CocoPairs
from datamodules.karpathy import CaptionLines, KarpathyPairs
from datamodules.labelled_sets import shards_of, tell_count
from datamodules.missing import MissingSet
from datamodules.shards import ShardPairs
from datamodules.sources import PairSource, Pictures


def pair_set(name: str, root: str | Path, split: str = "test", *, expected: int | None = None) -> Pictures:
    """A set of the field with all of its captions.

    Looked for in this order: COCO's ``annotations/captions_SPLIT.json`` beside ``SPLIT``; for ``test``, which is
    Karpathy's, ``dataset_NAME.json`` or clip-benchmark's ``NAME_test_karpathy.json`` and ``.txt``; and shards
    ``SPLIT/0.tar`` as clip-benchmark writes them, or named ``*-SPLIT-*.tar``.

    Args:
        name: Of the set and of its folder.
        root: Folder of all sets.
        split: Such as ``test``, or COCO's ``val2017``.
        expected: Pictures of the split; another number is told, for its figures compare with no published one.

    Returns:
        The set, or a ``MissingSet``.

    Raises:
        ValueError: the set is there and damaged.
    """
    folder = Path(root).expanduser() / name
    for layout in LAYOUTS:
        if (found := layout(folder, split)) is not None:
            tell_count(f"{name} ({split})", len(found), expected)
            return found
    ways = [f"dataset_{name}.json of Karpathy's splits and its pictures" if split == "test" else ""]
    ways += [f"annotations/captions_{split}.json and {split}/*.jpg" if split != "test" else ""]
    ways += [f"shards {split}/*.tar"]
    mend = f"put {', or '.join(filter(None, ways))} into {folder}, or set evaluation.root or PROTOCLIP_SETS"
    return MissingSet(name, mend)


def _coco(folder: Path, split: str) -> PairSource | None:
    annotations = folder / "annotations" / f"captions_{split}.json"
    return CocoPairs(annotations, folder / split) if annotations.is_file() else None


def _karpathy(folder: Path, split: str) -> PairSource | None:
    annotations = folder / f"dataset_{folder.name}.json"
    return KarpathyPairs(annotations, _pictures(folder), split) if annotations.is_file() else None


def _clip_benchmark(folder: Path, split: str) -> PairSource | None:
    lines, table = (folder / f"{folder.name}_{split}_karpathy.{suffix}" for suffix in ("txt", "json"))
    if table.is_file():
        return CocoPairs(table, folder / "val2014")
    return CaptionLines(lines, _pictures(folder)) if lines.is_file() else None


def _shards(folder: Path, split: str) -> PairSource | None:
    shards = shards_of(folder, split)
    return ShardPairs(shards) if shards else None


LAYOUTS: tuple[Callable[[Path, str], PairSource | None], ...] = (_coco, _karpathy, _clip_benchmark, _shards)
"""How a set may lie on the disk; None says that it does not lie so."""


def _pictures(folder: Path) -> Path:
    """The folder of the pictures, which archives name in several ways."""
    usual = ("images", "Images", "Flicker8k_Dataset", f"{folder.name}-images", f"{folder.name}_images")
    return next((place for name in usual if (place := folder / name).is_dir()), folder)
