"""Encoded pictures of any kind to RGB.

Pillow looks at all of them first. JPEG and WebP are then decoded by torchvision, to the same pixels in less time,
and what it refuses is Pillow's again: its verdict is the same whichever decoder was tried.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, decode_webp

from datamodules.sources import UnreadableSample

_TORCHVISION: dict[tuple[str | None, str], Callable[..., Tensor]] = {
    ("JPEG", "RGB"): decode_jpeg,
    ("JPEG", "L"): decode_jpeg,
    ("WEBP", "RGB"): decode_webp,
}
"""What decodes pictures of a format and mode as exactly as Pillow does."""

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


def read_picture(path: Path, mend: str) -> bytes:
    """The bytes of a picture's file.

    Args:
        path: Of the file.
        mend: What the error says to do.

    Raises:
        UnreadableSample: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError: a path that no file can have, such as one with a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableSample(f"cannot read {path} ({reason}): {mend}", "missing_file") from error


def decode_picture(data: bytes, name: str) -> Tensor:
    """Decode an encoded picture to RGB.

    Transparency is dropped, 16-bit grey keeps its high byte; CMYK, palettes and 8-bit grey are Pillow's conversions.
    The orientation that EXIF tells is ignored.

    Args:
        data: The bytes of a JPEG, PNG, WebP, ... file.
        name: What the error calls the picture.

    Returns:
        uint8 [3, height, width], the channels of a pixel side by side in memory, as resizing is quickest.

    Raises:
        UnreadableSample: the bytes are no picture, or a broken one.
    """
    try:
        picture = Image.open(io.BytesIO(data))
        pixels = _by_torchvision(picture, data)
        return _by_pillow(picture) if pixels is None else pixels
    except UnidentifiedImageError:  # its message holds an address in memory
        reason = "of no known format" if data else "an empty file"
        raise UnreadableSample(f"{name}: not a readable picture ({reason}): replace or remove it") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableSample(f"{name}: not a readable picture ({reason}): replace or remove it") from error


def _by_torchvision(picture: Image.Image, data: bytes) -> Tensor | None:
    """The pixels, None of what torchvision does not read, or not as Pillow does."""
    decode = _TORCHVISION.get((picture.format, picture.mode))
    if decode is None:
        return None
    try:
        return decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None


def _by_pillow(picture: Image.Image) -> Tensor:
    if picture.mode.startswith("I"):  # Pillow clips these at 255: a 16-bit picture would come out white
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "P":  # by way of RGBA, or Pillow warns of some palettes' transparency
        picture = picture.convert("RGBA")
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
