from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datamodules.pictures import decode_picture
from datamodules.sources import UnreadableSample


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def grey16(high_bytes: list[int]) -> Image.Image:
    return Image.fromarray(np.array([high_bytes], np.uint16) << 8)


def photo(width: int, height: int) -> Image.Image:
    """Soft shapes and grain."""
    generator = np.random.default_rng(0)
    coarse: NDArray[np.uint8] = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    shapes = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((shapes + 8 * generator.standard_normal(shapes.shape)).clip(0, 255).astype(np.uint8))


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    return exif


def palette() -> Image.Image:
    picture = Image.new("P", (2, 1), 1)
    picture.putpalette([9, 9, 9, 200, 100, 50])
    return picture


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("data", "pixel"),
    [
        (encoded(Image.new("L", (2, 1), 77), "PNG"), (77, 77, 77)),
        (encoded(Image.new("1", (2, 1), 1), "PNG"), (255, 255, 255)),
        (encoded(Image.new("LA", (2, 1), (77, 0)), "PNG"), (77, 77, 77)),
        (encoded(Image.new("RGBA", (2, 1), (1, 2, 3, 0)), "PNG"), (1, 2, 3)),
        (encoded(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encoded(palette(), "PNG"), (200, 100, 50)),
        (encoded(palette(), "PNG", transparency=b"\x80\x40"), (200, 100, 50)),
        (encoded(grey16([77, 3]), "PNG"), (77, 77, 77)),
        (encoded(grey16([77, 3]), "TIFF"), (77, 77, 77)),
        (encoded(Image.fromarray(np.array([[77 << 8]], np.int32)), "TIFF"), (77, 77, 77)),
        (encoded(Image.fromarray(np.array([[1 << 20]], np.int32)), "TIFF"), (255, 255, 255)),
    ],
    ids=[
        "grey",
        "bits",
        "grey-alpha",
        "rgba",
        "cmyk",
        "palette",
        "palette-alpha",
        "png16",
        "tiff16",
        "tiff32",
        "beyond",
    ],
)
def test_every_kind_of_picture_becomes_rgb(data: bytes, pixel: tuple[int, int, int]) -> None:
    picture = decode_picture(data, "x")
    assert (picture.dtype, picture.shape[0]) == (torch.uint8, 3)
    assert tuple(picture[:, 0, 0].tolist()) == pixel


def by_pillow(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"quality": 90}),
        ("RGB", "JPEG", {"quality": 50, "progressive": True}),
        ("RGB", "JPEG", {"quality": 95, "subsampling": 0}),
        ("RGB", "JPEG", {"exif": rotated()}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGBA", "PNG", {}),
        ("P", "GIF", {}),
    ],
)
def test_pixels_are_those_of_pillow(mode: str, kind: str, options: dict[str, Any]) -> None:
    data = encoded(photo(50, 37).convert(mode), kind, **options)
    picture = decode_picture(data, "x")
    assert picture.shape == (3, 37, 50)
    assert picture.stride() == (1, 150, 3)
    assert torch.equal(picture, by_pillow(data))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("WEBP", "RGB")])
def test_photos_are_decoded_by_torchvision(kind: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.pictures._by_pillow", None)
    assert decode_picture(encoded(photo(50, 37).convert(mode), kind), "x").shape == (3, 37, 50)


@pytest.mark.parametrize("progressive", [False, True])
def test_photos_that_are_cut_short_are_errors(progressive: bool) -> None:
    """libjpeg alone would fill them up with grey."""
    whole = encoded(photo(120, 80), "JPEG", progressive=progressive)
    for cut in (1, 2, 3, 10, 100, 1000):
        with pytest.raises(UnreadableSample, match="image file is truncated"):
            decode_picture(whole[:-cut], "x")


def test_broken_pictures_raise_one_line_that_names_them() -> None:
    noise: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "PNG")
    jpeg, webp = encoded(Image.fromarray(noise), "JPEG"), encoded(Image.fromarray(noise), "WEBP")
    bomb = encoded(Image.new("1", (1, 1)), "BMP")
    bomb = bomb[:18] + (60_000).to_bytes(4, "little") * 2 + bomb[26:]
    cut = (whole[:200], whole[:-40], whole[:60] + b"\x00" * 60 + whole[120:], jpeg[:-300], webp[:-50])
    for data in (b"", b"no picture", *cut, bomb):
        with pytest.raises(UnreadableSample, match="shard-7: key-3: not a readable picture") as caught:
            decode_picture(data, "shard-7: key-3")
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of damaged tags
def test_damaged_bytes_are_unreadable_or_a_picture() -> None:
    """The kinds of errors differ from decoder to decoder; none of them may escape."""
    generator = np.random.default_rng(0)
    noise: NDArray[np.uint8] = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    files = [encoded(Image.fromarray(noise), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")]
    outcomes = set()
    for file in files:
        for _ in range(100):
            data = bytearray(file[: generator.integers(len(file) // 2, len(file))])
            for place in generator.integers(0, min(len(data), 150), 3):
                data[place] ^= 1 << int(generator.integers(8))
            try:
                outcomes.add(f"{decode_picture(bytes(data), 'x').shape[0]} channels")
            except UnreadableSample as error:
                outcomes.add("unreadable" if "0x" not in str(error) else str(error))
    assert outcomes == {"3 channels", "unreadable"}


def test_reasons_are_the_same_each_time() -> None:
    for data, reason in ((b"", "an empty file"), (b"no picture", "of no known format")):
        with pytest.raises(UnreadableSample, match=rf"^x: not a readable picture \({reason}\): replace or remove it$"):
            decode_picture(data, "x")
