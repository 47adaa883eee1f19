"""Banks of textures, backgrounds, light and noise at one resolution, made once and cropped at random offsets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.scenes.vocabulary import Look, Vocabulary

Floats = NDArray[np.float32]
VARIANTS = 6
_SEED = 20_240_601


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What pictures of one size are painted with.

    Args:
        textures: bool [textures, variants, margin + side, ...], where a texture shows its second colour.
        backgrounds: uint8 [backgrounds, variants, margin + side, margin + side, 3].
        light: [variants, side / 2, side / 2, 1], gains about 1.
        noise: [side, side, 3], unit variance.
    """

    textures: NDArray[np.bool_]
    backgrounds: NDArray[np.uint8]
    light: Floats
    noise: Floats


def _smooth(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Smooth noise, [size, size] in [0, 1], with about `cells` hills a side."""
    grid = Image.fromarray(rng.random((cells + 1, cells + 1), dtype=np.float32), mode="F")
    hills: Floats = np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return hills.clip(0, 1)


def _rotated(rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
    angle = rng.random() * np.pi
    y, x = np.mgrid[:size, :size].astype(np.float32)
    turned = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    return turned[0].astype(np.float32), turned[1].astype(np.float32)


def _texture(pattern: str, rng: np.random.Generator, size: int, period: float) -> NDArray[np.bool_]:
    x, y = _rotated(rng, size)
    u, v = x % period, y % period
    half = period / 2
    if pattern == "stripes":
        mask = u < half
    elif pattern == "dots":
        mask = np.hypot(u - half, v - half) < 0.33 * period
    elif pattern == "checks":
        mask = (u < half) ^ (v < half)
    elif pattern == "plaid":
        mask = (u < 0.25 * period) | (v < 0.25 * period)
    elif pattern == "zigzag":
        mask = (y + np.abs(x % (2 * period) - period)) % period < half
    elif pattern == "speckles":
        mask = _smooth(rng, size, size // 2) > 0.75
    elif pattern == "patches":
        mask = _smooth(rng, size, round(1.2 * size / period)) > 0.55
    else:
        mask = np.zeros((size, size), bool)
    return np.asarray(mask)


def _blend(pattern: str, rng: np.random.Generator, size: int, unit: float) -> Floats:
    """How much of a background's second colour each pixel has, [size, size]."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    grain = rng.random((size, size), dtype=np.float32)
    if pattern == "clouds":
        blend = 1.3 * _smooth(rng, size, 5) * _smooth(rng, size, 9)
    elif pattern == "grain":
        blend = 0.5 * grain + 0.5 * _smooth(rng, size, size // 5)
    elif pattern == "bricks":
        row = y // unit
        joint = (y % unit < 0.15 * unit) | ((x + row * unit) % (2 * unit) < 0.15 * unit)
        blend = 0.85 * joint + 0.15 * grain
    elif pattern == "planks":
        blend = 0.9 * (y % (1.6 * unit) < 0.12 * unit) + 0.35 * np.sin(y / 2 + 3 * _smooth(rng, size, 4)) ** 2
    elif pattern == "stars":
        blend = 1.0 * (grain > 0.994)
    elif pattern == "waves":
        blend = 0.5 + 0.5 * np.sin(7 * y / unit + 2 * np.sin(3 * x / unit) + 4 * _smooth(rng, size, 4))
    elif pattern == "tiles":
        blend = 1.0 * ((x % (1.5 * unit) < 0.12 * unit) | (y % (1.5 * unit) < 0.12 * unit))
    elif pattern == "gradient":
        blend = 1 - y / size + 0.2 * (_smooth(rng, size, 4) - 0.5)
    else:
        blend = np.full_like(x, rng.random()) + 0.3 * (_smooth(rng, size, 2) - 0.5)
    return np.asarray(np.clip(blend, 0, 1), np.float32)


def _background(look: Look, rng: np.random.Generator, size: int, unit: float) -> NDArray[np.uint8]:
    near, far = np.array(look.colours, np.float32) + rng.normal(0, 10, (2, 3)).astype(np.float32)
    blend = _blend(look.pattern, rng, size, unit)[..., None]
    picture: Floats = near + (far - near) * blend
    return picture.clip(0, 255).astype(np.uint8)


def make_surfaces(words: Vocabulary, side: int) -> Surfaces:
    """Paint the banks for canvases of `side` pixels (twice the picture)."""
    rng = np.random.default_rng(_SEED)
    size = side + side // 4
    textures = [
        [_texture(look.pattern, rng, size, side * period) for period in np.linspace(0.07, 0.13, VARIANTS)]
        for look in words.textures
    ]
    backgrounds = [
        [_background(look, rng, size, side * unit) for unit in np.linspace(0.08, 0.16, VARIANTS)]
        for look in words.backgrounds
    ]
    light = [0.75 + 0.5 * _smooth(rng, side // 2, 2)[..., None] for _ in range(VARIANTS)]
    noise = rng.standard_normal((side, side, 3), dtype=np.float32)
    return Surfaces(np.array(textures), np.array(backgrounds), np.array(light, np.float32), noise)
