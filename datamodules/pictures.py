"""Encoded pictures of any kind to RGB."""

import io
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from datamodules.sources import UnreadableSample

# What Pillow raises on damaged bytes: the first six on JPEG, PNG, WebP, GIF, TIFF, BMP, JPEG 2000 and AVIF with bits
# flipped or ends cut off, the others in the code of its rarer formats. A picture that is cut short is an OSError.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    TypeError,
    Image.DecompressionBombError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
)


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decode an encoded picture to RGB, fully loaded.

    Transparency is dropped, 16-bit grey keeps its high byte; CMYK, palettes and 8-bit grey are Pillow's conversions.

    Args:
        data: The bytes of a JPEG, PNG, WebP, ... file.
        name: What the error calls the picture.

    Raises:
        UnreadableSample: the bytes are no picture, or a broken one.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(data))
        if picture.mode.startswith("I"):  # Pillow clips these at 255: a 16-bit picture would come out white
            picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
        if picture.mode == "P":  # by way of RGBA, or Pillow warns of some palettes' transparency
            picture = picture.convert("RGBA")
        return picture.convert("RGB")
    except UnidentifiedImageError:  # its message holds an address in memory
        reason = "of no known format" if data else "an empty file"
        raise UnreadableSample(f"{name}: not a readable picture ({reason}): replace or remove it") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableSample(f"{name}: not a readable picture ({reason}): replace or remove it") from error
