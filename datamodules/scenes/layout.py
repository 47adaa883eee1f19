"""What is in a picture: a pure function of a key, without pixels or words."""

import math
import random
from dataclasses import dataclass

from datamodules.scenes.vocabulary import Vocabulary

_SMALL, _LARGE = 0.63, 0.80
_USUAL = 0.6  # share of objects in their category's usual colour, and of pictures with the main object's background


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene. Positions and sizes are fractions of the picture; indices refer to the vocabulary.

    Args:
        category: kind of object.
        colour: of the body.
        accent: colour of the accents, never the body's.
        texture: of the body.
        size: side of the box that the shape is drawn in, before rotation.
        x: of the centre.
        y: of the centre, downwards.
        turn: rotation in degrees.
        aspect: width over height of the box.
        mirrored: whether left and right are swapped.
    """

    category: int
    colour: int
    accent: int
    texture: int
    size: float
    x: float
    y: float
    turn: float
    aspect: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's content: the main object first, which is the largest.

    Args:
        key: what the scene was drawn from; further streams of random numbers are derived from it.
        background: index into the vocabulary's backgrounds.
        objects: one or more.
    """

    key: str
    background: int
    objects: tuple[Thing, ...]


def size_word(size: float) -> str:
    """Name of a size: the key into the vocabulary's sizes."""
    return "small" if size < _SMALL else "large" if size > _LARGE else "medium"


def place_word(x: float, y: float) -> str:
    """Name of a place: the key into the vocabulary's places."""
    row = "top" if y < 0.43 else "bottom" if y > 0.57 else ""
    column = "left" if x < 0.43 else "right" if x > 0.57 else ""
    return f"{row} {column}".strip() or "middle"


def _position(rng: random.Random, size: float, others: list[Thing]) -> tuple[float, float]:
    """The candidate farthest from what is there already, so that no object hides another."""
    margin = 0.40 * size
    best, best_distance = (0.5, 0.5), -math.inf
    for _ in range(6 if others else 1):
        x, y = (margin + (1 - 2 * margin) * rng.random() for _ in range(2))
        distance = min((math.hypot(x - o.x, y - o.y) - 0.4 * o.size for o in others), default=0.0)
        if distance > best_distance:
            best, best_distance = (x, y), distance
    return best


def _thing(rng: random.Random, words: Vocabulary, category: int, size: float, others: list[Thing]) -> Thing:
    draw, textures = rng.random, len(words.textures)
    colours = len(words.colours)
    colour = words.categories[category].colour if draw() < _USUAL else int(draw() * colours)
    x, y = _position(rng, size, others)
    return Thing(
        category=category,
        colour=colour,
        accent=(colour + 1 + int(draw() * (colours - 1))) % colours,
        # Half of all things are plain, the first texture: patterns on everything hide the shapes.
        texture=max(0, int(draw() * 2 * textures) - textures),
        size=size,
        x=x,
        y=y,
        turn=(2 * draw() - 1) * words.categories[category].turn,
        aspect=math.exp((draw() - 0.5) * 0.6),
        mirrored=draw() < 0.5,
    )


def make_scene(key: str, words: Vocabulary, max_objects: int, category: int | None = None) -> Scene:
    """Draw a scene.

    Args:
        key: names the scene; equal keys give equal scenes.
        words: the vocabulary.
        max_objects: 1 to this many objects, of different categories.
        category: of the main object; drawn if None.
    """
    rng = random.Random(f"{key}/layout")
    draw = rng.random
    kinds = len(words.categories)
    main = int(draw() * kinds) if category is None else category
    background = words.categories[main].background if draw() < _USUAL else int(draw() * len(words.backgrounds))
    things = [_thing(rng, words, main, 0.52 + 0.40 * draw(), [])]
    # Squared: most pictures of the web show one thing.
    for _ in range(int(draw() ** 2 * max_objects)):
        taken = {thing.category for thing in things}
        other = next(kind for kind in iter(lambda: int(draw() * kinds), -1) if kind not in taken)
        size = things[0].size * (0.45 + 0.35 * draw())
        things.append(_thing(rng, words, other, size, things))
    return Scene(key, background, tuple(things))
