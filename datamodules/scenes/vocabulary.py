"""The corpus as data: categories drawn from primitives, looks, places and the words for them, read once from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from string import Formatter
from typing import Any

import yaml

from datamodules.scenes.shapes import Shape, build_shape

Template = tuple[tuple[str, str | None], ...]
"""A caption template as (literal text, slot after it) pairs."""


@dataclass(frozen=True)
class Category:
    """One kind of object: how it is called and how it is drawn."""

    names: tuple[str, ...]
    group: int
    turn: float
    shape: Shape
    colour: int
    """Its usual colour."""
    background: int
    """Its usual background."""


@dataclass(frozen=True)
class Look:
    """A colour, a texture or a background: its name, how it is painted and the words for it."""

    name: str
    words: tuple[str, ...]
    pattern: str = ""
    colours: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """Everything a scene is made of, in the order that its indices refer to."""

    categories: tuple[Category, ...]
    groups: tuple[str, ...]
    colours: tuple[Look, ...]
    textures: tuple[Look, ...]
    backgrounds: tuple[Look, ...]
    sizes: Mapping[str, tuple[str, ...]]
    places: Mapping[str, tuple[str, ...]]
    joins: tuple[str, ...]
    templates: tuple[Template, ...]
    lists: Mapping[str, tuple[str, ...]]
    digest: str

    @property
    def classnames(self) -> tuple[str, ...]:
        """The first name of each category."""
        return tuple(category.names[0] for category in self.categories)


def _looks(entries: Mapping[str, Any]) -> tuple[Look, ...]:
    return tuple(
        Look(
            name=name,
            words=tuple(entry["words"]),
            pattern=entry.get("pattern", ""),
            colours=tuple(tuple(rgb) for rgb in entry.get("colours", [entry["rgb"]] if "rgb" in entry else [])),
        )
        for name, entry in entries.items()
    )


def _lists(entries: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(words) for name, words in entries.items()}


def _template(text: str) -> Template:
    return tuple((literal, slot) for literal, slot, _, _ in Formatter().parse(text))


@cache
def load_vocabulary() -> Vocabulary:
    """Read the packaged YAML files; groups come in the alphabetical order of their files."""
    root = files("datamodules.scenes")
    folder = sorted((entry for entry in (root / "categories").iterdir()), key=lambda entry: entry.name)
    texts = [entry.read_text(encoding="utf-8") for entry in folder]
    words_text = (root / "vocabulary.yaml").read_text(encoding="utf-8")
    words = yaml.safe_load(words_text)
    colours, backgrounds = list(words["colours"]), list(words["backgrounds"])
    categories: list[Category] = []
    for group, text in enumerate(texts):
        content = yaml.safe_load(text)
        for entry in content["categories"].values():
            shape = build_shape(entry["parts"])
            usual = (colours.index(entry["usual"]["colour"]), backgrounds.index(entry["usual"]["background"]))
            categories.append(Category(tuple(entry["names"]), group, float(content["turn"]), shape, *usual))
    return Vocabulary(
        categories=tuple(categories),
        groups=tuple(entry.name.removesuffix(".yaml").replace("_", " ") for entry in folder),
        colours=_looks(words["colours"]),
        textures=_looks(words["textures"]),
        backgrounds=_looks(words["backgrounds"]),
        sizes=_lists(words["sizes"]),
        places=_lists(words["places"]),
        joins=tuple(words["joins"]),
        templates=tuple(_template(text) for text in words["templates"]),
        lists=_lists(words["lists"]),
        digest=sha256("\0".join([*texts, words_text]).encode()).hexdigest(),
    )
