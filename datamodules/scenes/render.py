"""From a scene to pixels: polygons drawn at twice the size, textured, lit, reduced."""

import math
import random
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from datamodules.scenes.layout import Scene, Thing
from datamodules.scenes.shapes import ROLES, vary
from datamodules.scenes.surfaces import VARIANTS, Floats, make_surfaces
from datamodules.scenes.vocabulary import load_vocabulary

Draw = Callable[[], float]
Bytes = NDArray[np.uint8]
_Scalar = TypeVar("_Scalar", np.uint8, np.bool_)

_VARIATION = 0.65
_CLUTTER = 3
_BODY, _SECOND = 1, len(ROLES) + 1
_OPTIONAL = 0.6


class Renderer:
    """Draws scenes as square pictures of one size; use `renderer`, which keeps one for each size."""

    def __init__(self, image_size: int) -> None:
        self.words = load_vocabulary()
        self.side = 2 * image_size
        self.surfaces = make_surfaces(self.words, self.side)

    def __call__(self, scene: Scene) -> tuple[Bytes, Bytes]:
        """Draw a scene.

        Returns:
            tuple: the picture, [size, size, 3], and which object covers each pixel of the canvas, counted from 1,
            [2 * size, 2 * size].
        """
        draw = random.Random(f"{scene.key}/pixels").random
        canvas = self._background(scene, draw)
        owner = np.zeros((self.side, self.side), np.uint8)
        # The main object is drawn first: smaller ones in front of it stay visible.
        for number, thing in enumerate(scene.objects, 1):
            self._paint(canvas, owner, number, thing, draw)
        return self._develop(canvas, draw), owner

    def _crop(self, bank: NDArray[_Scalar], draw: Draw) -> NDArray[_Scalar]:
        variant: NDArray[_Scalar] = bank[int(draw() * VARIANTS)]
        room = len(variant) - self.side + 1
        top, left = int(draw() * room), int(draw() * room)
        return variant[top : top + self.side, left : left + self.side]

    def _background(self, scene: Scene, draw: Draw) -> Bytes:
        picture = Image.fromarray(self._crop(self.surfaces.backgrounds[scene.background], draw))
        pen = ImageDraw.Draw(picture)
        for _ in range(int(draw() * (_CLUTTER + 1))):
            x, y, grey = draw() * self.side, draw() * self.side, int(draw() * 200)
            colour = tuple(int(grey + 55 * draw()) for _ in range(3))
            if draw() < 0.5:
                end = (x + (draw() - 0.5) * self.side, y + (draw() - 0.5) * self.side)
                pen.line([(x, y), end], fill=colour, width=1 + int(draw() * self.side / 24))
            else:
                radius = (0.02 + 0.07 * draw()) * self.side
                pen.polygon(
                    [(x + radius * (draw() - 0.5) * 3, y + radius * (draw() - 0.5) * 3) for _ in "abcd"], colour
                )
        return np.array(picture)

    def _polygons(self, thing: Thing, draw: Draw) -> tuple[list[float], tuple[tuple[int, int, int, int], ...]]:
        shape = self.words.categories[thing.category].shape
        points = vary(shape, draw, _VARIATION)
        cos, sin = math.cos(math.radians(thing.turn)), math.sin(math.radians(thing.turn))
        stretch = math.sqrt(thing.aspect)
        wide, high = thing.size * stretch * (-1 if thing.mirrored else 1), thing.size / stretch
        matrix = np.array([[wide * cos, wide * sin], [-high * sin, high * cos]], np.float32)
        placed = (points @ matrix + np.array([thing.x, thing.y], np.float32)) * self.side
        return placed.ravel().tolist(), shape.polygons

    def _palette(self, thing: Thing, draw: Draw) -> Bytes:
        """Colours of the roles, [8, 3]: row 0 is unused, the last one is the texture's second colour."""
        colours = self.words.colours
        shift = np.array([draw() for _ in range(9)], np.float32).reshape(3, 3) * 50 - 25
        body = np.array(colours[thing.colour].colours[0], np.float32) + shift[0]
        accent = np.array(colours[thing.accent].colours[0], np.float32) + shift[1]
        # Textures go to the lighter side on dark bodies and to the darker side on light ones.
        second = body * 0.6 + (80 if body.mean() < 110 else 0) + 0.5 * shift[2]
        rows = [body, body, body * 0.68, accent, 0.12 * body + 20, 0.15 * body + 205, second]
        palette: Floats = np.stack(rows)
        return palette.clip(0, 255).astype(np.uint8)

    def _paint(self, canvas: Bytes, owner: Bytes, number: int, thing: Thing, draw: Draw) -> None:
        flat, polygons = self._polygons(thing, draw)
        sheet = Image.new("L", (self.side, self.side))
        pen = ImageDraw.Draw(sheet)
        left_out = {optional for *_, optional in polygons if optional >= 0 and draw() > _OPTIONAL}
        for first, last, role, optional in polygons:
            if optional not in left_out:
                pen.polygon(flat[first:last], fill=role)
        box = sheet.getbbox()
        if box is None:
            return
        window = np.s_[box[1] : box[3], box[0] : box[2]]
        roles = np.asarray(sheet)[window]
        texture = self._crop(self.surfaces.textures[thing.texture], draw)[window]
        looks = np.where((roles == _BODY) & texture, _SECOND, roles)
        inside = roles > 0
        np.copyto(canvas[window], self._palette(thing, draw)[looks], where=inside[..., None])
        owner[window][inside] = number

    def _develop(self, canvas: Bytes, draw: Draw) -> Bytes:
        """Light, contrast and sensor noise, after the reduction to the picture's size."""
        picture = np.asarray(Image.fromarray(canvas).reduce(2), np.float32)
        size = self.side // 2
        light = self.surfaces.light[int(draw() * VARIANTS)]
        top, left = int(draw() * size), int(draw() * size)
        noise = self.surfaces.noise[top : top + size, left : left + size] * (2 + 6 * draw())
        contrast, level = 0.7 + 0.4 * draw(), 105 + 50 * draw()
        lit: Floats = (picture * light - 128) * contrast + level + noise
        return lit.clip(0, 255).astype(np.uint8)


@cache
def renderer(image_size: int) -> Renderer:
    """The process's renderer for pictures of `image_size` pixels a side."""
    return Renderer(image_size)
