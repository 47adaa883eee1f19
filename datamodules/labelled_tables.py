"""A labelled set from a table of paths and labels (CSV, TSV, JSON Lines, Parquet)."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.classnames import read_classnames
from datamodules.labelled_files import LabelledFiles
from datamodules.locations import existing_file
from datamodules.prompts import TEMPLATE
from datamodules.tables import read_columns

_WHOLE = re.compile(r"-?\d+")


class LabelledTable(LabelledFiles):
    """Pictures listed in a table, one a row.

    A label is a class' name, or its number counted from 0; a label that is one of ``classnames`` is a name.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, with a header or field names.
        classnames: Names in the order of the labels, or a file with one a line; default: the labels in their order.
        templates: Zero-shot prompts with one ``{}`` for the class name.
        image_key: Column of image paths, relative to the table's folder or absolute.
        label_key: Column of labels.
        separator: Of a CSV or TSV, where it is not what the file's name says: one character.
        images_root: Folder of relative image paths, instead of the table's.

    Raises:
        ValueError: the table is missing or damaged, has no such column, lists a picture that is not there, or has a
            label without a name, a name of two classes, or a class without a picture.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classnames: str | Path | Sequence[str] | None = None,
        templates: str | Sequence[str] = TEMPLATE,
        image_key: str = "path",
        label_key: str = "label",
        separator: str | None = None,
        images_root: str | Path | None = None,
    ) -> None:
        file = existing_file(path)
        paths: list[str] = []
        cells: list[str] = []
        for images, labels in read_columns(file, (image_key, label_key), separator):
            for image, label in zip(_plain(images), _plain(labels), strict=True):
                cell = str(label).strip() if isinstance(label, str | int) and not isinstance(label, bool) else ""
                if not isinstance(image, str) or not image or not cell:
                    place = f"{file}: row {len(paths) + 1}"
                    raise ValueError(f"{place} lacks a path, or a label that is a text or a whole number: mend it")
                paths.append(image)
                cells.append(cell)
        names = None if classnames is None else read_classnames(classnames)
        numbers, names = _numbered(file, cells, names)
        root = Path(images_root).expanduser() if images_root is not None else file.parent
        super().__init__(root, paths, numbers, classnames=names, templates=templates)


def _plain(column: Any) -> list[Any]:
    return column if isinstance(column, list) else column.to_pylist()


def _numbered(file: Path, cells: Sequence[str], names: list[str] | None) -> tuple[list[int], list[str]]:
    """The classes of the rows, and their names."""
    whole = all(_WHOLE.fullmatch(cell) for cell in cells)
    if names is None and whole:  # of n rows at most n classes have a picture
        names = [str(number) for number in range(min(max(map(int, cells), default=0), len(cells)) + 1)]
    elif names is None:
        names = sorted({*cells})
    if whole and not {*cells} <= {*names}:
        for row, cell in enumerate(cells, start=1):
            if not 0 <= int(cell) < len(names):
                told = f"{file}: row {row}: label {cell} is not in 0..{len(names) - 1}"
                raise ValueError(f"{told}: mend it, or give all class names")
        return [int(cell) for cell in cells], names
    numbers = {name: number for number, name in enumerate(names)}
    doubled = {name: count for name, count in Counter(names).items() if count > 1}
    for row, cell in enumerate(cells, start=1):
        if cell not in numbers:
            raise ValueError(f"{file}: row {row}: label {cell!r} is not in classnames: mend one of them")
        if cell in doubled:
            raise ValueError(f"{file}: row {row}: {doubled[cell]} classes are called {cell!r}: give labels as numbers")
    return [numbers[cell] for cell in cells], names
