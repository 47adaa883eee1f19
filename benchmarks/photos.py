"""Pictures that decode and resize like photos, made of numbers."""

import io

import numpy as np
from PIL import Image


def photo(seed: int, width: int, height: int) -> bytes:
    """A JPEG with the spectrum of a photo: the finer the detail, the fainter, and some grain."""
    generator = np.random.default_rng(seed)
    pixels = 8 * generator.standard_normal((height, width, 1)).repeat(3, 2)
    for octave in range(1, 9):
        noise = generator.standard_normal((3, 2**octave, 2**octave)).astype(np.float32)
        grown = [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in noise
        ]
        grey, *colours = grown
        pixels += 80 / 2 ** (0.9 * octave) * np.stack([grey, *(grey + colour / 2 for colour in colours)], 2)
    buffer = io.BytesIO()
    Image.fromarray((pixels + 120).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
