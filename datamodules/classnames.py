"""Names of the classes of a labelled set."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.locations import existing_file


def read_classnames(classnames: str | Path | Sequence[str]) -> list[str]:
    """Class names: a file's lines, line n is class n, or the names themselves.

    Raises:
        ValueError: the file is missing, or a name is blank.
    """
    if isinstance(classnames, str | Path):
        names = existing_file(classnames).read_text(encoding="utf-8").rstrip().split("\n")
    else:
        names = list(classnames)
    names = [name.strip() for name in names]
    if not names or not all(names):
        raise ValueError(f"classnames {classnames} has a blank name: give one name a line, line n = class n")
    return names
