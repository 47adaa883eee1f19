"""Class names and zero-shot prompts of the field's labelled sets, one JSON file each with its source and its hash.

A file has ``templates``; ``classnames`` in the order of the labels, or null where the set's own names on the disk are
used; ``folders``, where the names on the disk are others (ImageNet's WordNet ids); ``source``, where each list is from;
and ``sha256`` of the lists, so that a changed prompt never goes unseen.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TEMPLATE = "a photo of a {}."
"""Of a set that has no prompts of its own."""


@dataclass(frozen=True)
class Prompts:
    """What ``read_prompts`` gives."""

    templates: list[str]
    classnames: list[str] | None
    """In the order of the labels; None where the names on the disk are used."""
    folders: list[str] | None
    """What the classes are called on the disk, in the order of the labels; None where nothing is known of it."""


def read_prompts(name: str, folder: Path = Path(__file__).parent) -> Prompts:
    """The prompts of a set.

    Args:
        name: of the file, without its suffix.
        folder: of the files.

    Raises:
        ValueError: there is no such file, or it was changed.
    """
    file = folder / f"{name}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
        raise ValueError(f"there are no prompts of {name!r}, only of {known}: give classnames and templates")
    content = json.loads(file.read_text(encoding="utf-8"))
    prompts = Prompts(content["templates"], content["classnames"], content.get("folders"))
    if content["sha256"] != prompts_hash(prompts):
        raise ValueError(f"{file} was changed: bring it back, and give your own classnames or templates in the config")
    return prompts


def prompts_hash(prompts: Prompts) -> str:
    """SHA-256 of the lists."""
    lists = [prompts.templates, prompts.classnames, prompts.folders]
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()


def checked_templates(templates: str | Sequence[str]) -> list[str]:
    """Prompts as a list.

    Raises:
        ValueError: there is none, or one that has no single place for the name.
    """
    found = [templates] if isinstance(templates, str) else list(templates)
    if not found or any(template.count("{}") != 1 for template in found):
        raise ValueError(f"templates={found}: give prompts with one {{}} each, as 'a photo of a {{}}.'")
    return found


def words(name: str) -> str:
    """A folder's name as words: ``apple_pie`` and ``ApplePie`` have two."""
    return " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).split())
