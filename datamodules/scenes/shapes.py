"""Primitives to polygons, and the variation that keeps a category from being a fixed stamp."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
ROLES = ("body", "shade", "accent", "dark", "light")
"""What a part is painted with: the object's colour and texture, a darker one, a second colour, near black or white."""

_ARC_STEP = np.pi / 9


@dataclass(frozen=True, eq=False)
class Shape:
    """The polygons of a category in a unit box centred on 0.

    Args:
        points: [n, 2], all polygons one after the other.
        joint: [n], which parts a point varies with: those of one role and primitive, so that wheels stay alike.
        centre: [n, 2], the centre of the point's polygon, about which it is scaled.
        polygons: (first, last, role, optional group or -1) of each polygon; roles count from 1.
        joints: the number of groups.
    """

    points: Points
    joint: NDArray[np.intp]
    centre: Points
    polygons: tuple[tuple[int, int, int, int], ...]
    joints: int


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> Points:
    angle = np.arange(18) * _ARC_STEP
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], 1).astype(np.float32)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def _arc(width: float, cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> Points:
    low, high = np.deg2rad([start, end])
    angle = np.linspace(low, high, max(4, round(abs(high - low) / _ARC_STEP)) + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    radii, half = np.array([rx, ry]), width / 2
    band: Points = np.concatenate([ring * (radii + half), (ring * (radii - half))[::-1]]).astype(np.float32)
    return band + np.array([cx, cy], np.float32)


def _segments(width: float, *numbers: float) -> Iterator[Points]:
    points = np.array(numbers, np.float32).reshape(-1, 2)
    for a, b in pairwise(points):
        along = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6) * (width / 2)
        side = np.array([-along[1], along[0]], np.float32)
        # Longer by half a width at both ends, so that the joints of a polyline close.
        yield np.stack([a - along + side, b + along + side, b + along - side, a - along - side]).astype(np.float32)


def _each(make: Callable[..., Points], size: int, numbers: Sequence[float]) -> Iterator[Points]:
    for start in range(0, len(numbers), size):
        yield make(*numbers[start : start + size])


def _polygons(kind: str, numbers: Sequence[float]) -> Iterator[Points]:
    """The polygons of one entry of a category's parts.

    Raises:
        ValueError: for a primitive that does not exist.
    """
    if kind == "polygon":
        yield np.array(numbers, np.float32).reshape(-1, 2)
    elif kind == "line":
        yield from _segments(*numbers)
    elif kind in ("ellipse", "box", "arc"):
        makers: dict[str, tuple[Callable[..., Points], int]] = {
            "ellipse": (_ellipse, 4),
            "box": (_box, 4),
            "arc": (_arc, 7),
        }
        yield from _each(*makers[kind], numbers)
    else:
        raise ValueError(f"unknown primitive {kind!r}: use ellipse, box, polygon, line or arc")


def build_shape(parts: Sequence[Mapping[str, Any]]) -> Shape:
    """Compile the parts of a category.

    Args:
        parts: entries like ``{"accent? box": [x0, y0, x1, y1, ...]}``, in percent of the unit box, drawn in order.

    Raises:
        ValueError: for a primitive or a role that does not exist.
    """
    points: list[Points] = []
    polygons: list[tuple[int, int, int, int]] = []
    joints: dict[str, int] = {}
    joint: list[int] = []
    first = 0
    for number, part in enumerate(parts):
        ((key, numbers),) = part.items()
        role, kind = key.split()
        group = joints.setdefault(key, len(joints))
        for polygon in _polygons(kind, numbers):
            last = first + len(polygon)
            optional = number if role.endswith("?") else -1
            polygons.append((2 * first, 2 * last, ROLES.index(role.removesuffix("?")) + 1, optional))
            points.append((polygon / 100 - 0.5).astype(np.float32))
            joint += [group] * len(polygon)
            first = last
    centre = np.concatenate([np.broadcast_to(polygon.mean(0), polygon.shape) for polygon in points])
    return Shape(np.concatenate(points), np.array(joint), centre, tuple(polygons), len(joints))


def vary(shape: Shape, draw: Callable[[], float], strength: float) -> Points:
    """Points of one individual of a category: parts stretched and shifted, the whole tapered and bent.

    Args:
        shape: the category's shape.
        draw: uniform numbers in [0, 1).
        strength: 0 gives the shape as it is drawn in the YAML.

    Returns:
        Points: [n, 2], about the unit box.
    """
    count = 4 * shape.joints + 6
    noise = (np.fromiter((draw() for _ in range(count)), np.float32, count) - 0.5) * (2 * strength)
    parts = noise[6:].reshape(shape.joints, 4)[shape.joint]
    points = shape.centre + (shape.points - shape.centre) * (1 + 0.35 * parts[:, :2]) + 0.05 * parts[:, 2:]
    x, y = points[:, 0], points[:, 1]
    bent_x = x * (1 + 0.5 * noise[0] * y) + 0.10 * noise[1] * np.sin(4 * y + 3 * noise[2])
    bent_y = y * (1 + 0.5 * noise[3] * x) + 0.10 * noise[4] * np.sin(4 * x + 3 * noise[5])
    varied: Points = np.stack([bent_x, bent_y], 1)
    return varied
