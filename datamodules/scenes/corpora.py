"""The corpus as a source of pairs and as a source of labelled pictures. Sample i is a function of (seed, split, i)."""

import math
import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.scenes.captions import make_captions, summarise
from datamodules.scenes.layout import Scene, Thing, make_scene
from datamodules.scenes.picture_cache import picture_cache
from datamodules.scenes.render import renderer
from datamodules.scenes.vocabulary import Vocabulary, load_vocabulary
from datamodules.sources import LabelledSource, PairSource, Pictures
from protoclip.ranges import PositiveInt, Share

CAPTIONS = 5
_VERSION = 1
_FEATURE_NOISE = 0.1
_WRONG_RANGE = 2**40


def feature_size() -> int:
    """F of `ScenePairs.instance_features`: groups, colours and textures as one-hot, then six numbers of geometry."""
    words = load_vocabulary()
    return len(words.groups) + len(words.colours) + len(words.textures) + 6


def _check(split: str, splits: Sequence[str], size: int, image_size: int) -> None:
    if split not in splits:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(splits)}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if image_size < 8:
        raise ValueError(f"image_size must be at least 8 pixels, got {image_size}")


class _Scenes(Pictures):
    """What both sources share: keys, scenes, pictures, labels."""

    def __init__(self, key: str, size: int, image_size: int, max_objects: int, cache: bool) -> None:
        self.size, self.image_size, self.max_objects = size, image_size, max_objects
        self.classnames: Sequence[str] = self._words.classnames
        self._key = key
        self._cache = picture_cache((key, max_objects), size, image_size) if cache else None
        self._labels: dict[int, int] = {}
        self._captions: dict[int, list[str]] = {}
        settings = (_VERSION, key, size, image_size, max_objects, self._identity())
        self.fingerprint = sha256(f"{settings}/{self._words.digest}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.size

    @property
    def _words(self) -> Vocabulary:
        return load_vocabulary()

    @property
    def num_classes(self) -> int:
        """How many categories there are."""
        return len(self._words.categories)

    def _identity(self) -> Any:
        return None

    def _scene_at(self, index: int) -> Scene:
        return make_scene(f"{self._key}/{index}", self._words, self.max_objects)

    def scene(self, index: int) -> Scene:
        """What the picture shows.

        Raises:
            IndexError: outside [0, len).
        """
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside [0, {self.size})")
        return self._scene_at(index)

    def image(self, index: int) -> Tensor:
        """The picture, uint8 [3, image_size, image_size]."""
        cache = self._cache
        if cache is not None and 0 <= index < self.size and cache.filled[index]:
            return torch.from_numpy(cache.pixels[index].copy())
        picture = renderer(self.image_size)(self.scene(index))[0].transpose(2, 0, 1)
        if cache is not None:
            cache.pixels[index] = picture
            cache.filled[index] = 1
        return torch.from_numpy(np.ascontiguousarray(picture))

    def label(self, index: int) -> int:
        """The category of the main object."""
        if (label := self._labels.get(index)) is None:
            label = self._labels[index] = self.scene(index).objects[0].category
        return label


class ScenePairs(_Scenes, PairSource):
    """Pictures of one to three objects with five captions each.

    Args:
        split: "train", "val" or "retrieval"; they share no scene.
        size: number of pairs.
        image_size: pixels a side.
        seed: of everything.
        noise: share of captions, in the training split only, that were written for some other scene.
        max_objects: 1 to this many objects in a picture.
        cache: whether to keep the rendered pictures in memory, shared with forked workers.

    Raises:
        ValueError: for an unknown split, and for numbers out of range.
    """

    splits = ("train", "val", "retrieval")

    def __init__(
        self,
        split: str,
        size: PositiveInt,
        *,
        image_size: PositiveInt = 48,
        seed: int = 0,
        noise: Share = 0.1,
        max_objects: PositiveInt = 3,
        cache: bool = True,
    ) -> None:
        _check(split, self.splits, size, image_size)
        if not 0 <= noise <= 1:
            raise ValueError(f"noise is a share of captions: use a number in [0, 1], got {noise}")
        if not 1 <= max_objects <= 8:
            raise ValueError(f"max_objects must be in [1, 8], got {max_objects}")
        self.noise = noise if split == "train" else 0.0
        self._regions: dict[int, Tensor] = {}
        super().__init__(f"pairs/{seed}/{split}", size, image_size, max_objects, cache)

    def _identity(self) -> Any:
        return self.noise

    def _wrong(self, scene: Scene) -> dict[int, Scene]:
        """Which captions are about another scene, and that scene."""
        if not self.noise:
            return {}
        draw = random.Random(f"{scene.key}/noise").random
        # Any index of the endless corpus may be told, so that a sample does not depend on the number of samples.
        fates = [(draw() < self.noise, int(draw() * _WRONG_RANGE)) for _ in range(CAPTIONS)]
        return {number: self._scene_at(other) for number, (wrong, other) in enumerate(fates) if wrong}

    def captions(self, index: int) -> list[str]:
        """Five captions. Each names the main object first, except where it is about another scene."""
        if index in self._captions:
            return self._captions[index]
        scene = self.scene(index)
        captions = make_captions(scene, self._words, CAPTIONS)
        for number, other in self._wrong(scene).items():
            captions[number] = make_captions(other, self._words, 1)[0]
        if self._cache is not None:
            self._captions[index] = captions
        return captions

    def summary(self, index: int) -> str:
        """What a summariser would leave of the first caption; wrong where that is wrong."""
        scene = self.scene(index)
        return summarise(self._wrong(scene).get(0, scene), self._words)

    def masks(self, index: int) -> Tensor:
        """The visible part of each object, bool [objects, image_size, image_size]."""
        scene = self.scene(index)
        owner = renderer(self.image_size)(scene)[1]
        size = self.image_size
        # A pixel is that of the frontmost object that touches it, so that masks do not overlap.
        front = owner.reshape(size, 2, size, 2).max((1, 3))
        return torch.from_numpy(front == np.arange(1, len(scene.objects) + 1)[:, None, None])

    def boxes(self, index: int) -> Tensor:
        """The box around each object's visible part, float [objects, 4], (x0, y0, x1, y1) in [0, 1]."""
        boxes = torch.zeros(0, 4)
        for mask in self.masks(index):
            rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            corners = [0, 0, 0, 0] if not len(rows) else [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            boxes = torch.cat([boxes, torch.tensor([corners]) / self.image_size])
        return boxes

    def instance_features(self, index: int) -> Tensor:
        """What a detector would say of each object, float [objects, F], F = `feature_size()`.

        One-hot category group, colour and texture; centre, width, height, sine and cosine of the rotation; +-0.1 noise.
        """
        scene, words = self.scene(index), self._words
        draw = random.Random(f"{scene.key}/features").random

        def describe(thing: Thing) -> list[float]:
            stretch, angle = math.sqrt(thing.aspect), math.radians(thing.turn)
            group = words.categories[thing.category].group
            ones = (group, len(words.groups) + thing.colour, len(words.groups) + len(words.colours) + thing.texture)
            geometry = (thing.x, thing.y, thing.size * stretch, thing.size / stretch, math.sin(angle), math.cos(angle))
            clean = [float(i in ones) for i in range(feature_size() - len(geometry))] + list(geometry)
            return [value + _FEATURE_NOISE * (2 * draw() - 1) for value in clean]

        return torch.tensor([describe(thing) for thing in scene.objects])

    def regions(self, index: int) -> Tensor:
        """What a detector would give, float [objects, F + 4]: `instance_features` beside `boxes`."""
        if (found := self._regions.get(index)) is None:
            found = torch.cat([self.instance_features(index), self.boxes(index)], dim=1)
            if self._cache is not None:
                self._regions[index] = found
        return found


class SceneObjects(_Scenes, LabelledSource):
    """Pictures of one object with balanced labels, for zero-shot classification and linear probes.

    Args:
        split: "train", "val" or "test"; they share no scene.
        size: number of pictures.
        image_size: pixels a side.
        seed: of everything.
        cache: whether to keep the rendered pictures in memory, shared with forked workers.

    Raises:
        ValueError: for an unknown split, and for numbers out of range.
    """

    splits = ("train", "val", "test")
    templates = (
        "a photo of a {}.",
        "a picture of a {}.",
        "a {}",
        "a blurry photo of a {}.",
        "a close-up of a {}",
        "my {}",
        "{} stock photo",
    )

    def __init__(self, split: str, size: int, *, image_size: int = 48, seed: int = 0, cache: bool = True) -> None:
        _check(split, self.splits, size, image_size)
        super().__init__(f"objects/{seed}/{split}", size, image_size, 1, cache)

    def label(self, index: int) -> int:
        """The category: every run of `num_classes` pictures that starts at a multiple of it holds each once."""
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside [0, {self.size})")
        return self._label_at(index)

    def _label_at(self, index: int) -> int:
        block, place = divmod(index, self.num_classes)
        draw = random.Random(f"{self._key}/labels/{block}").random
        return sorted(range(self.num_classes), key=lambda _: draw())[place]

    def _scene_at(self, index: int) -> Scene:
        return make_scene(f"{self._key}/{index}", self._words, 1, category=self._label_at(index))
