"""What all encoders share: devices, pickling, pictures of both kinds."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image, to_tensor

from protoclip.teachers.encoders import Encoder, ImageEncoder


class Lengths(Encoder):
    """Captions by their length, through a layer with dropout."""

    kind = "text"

    def describe(self) -> dict[str, Any]:
        return {"model": "lengths"}

    def _load(self) -> tuple[Any, nn.Module]:
        return len, nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5)).half()

    def _encode(self, items: Sequence[Any]) -> Tensor:
        lengths = torch.tensor([[float(self._preprocess(item))] for item in items], dtype=torch.float16)
        features: Tensor = self._network(lengths.to(self._place))
        return features


def test_features_are_unit_rows_of_a_frozen_model() -> None:
    encode = Lengths()
    features = encode(["a", "a dog", "a black dog"])
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert torch.equal(encode(["a", "a dog", "a black dog"]), features)
    assert encode.dim == 3


class Means(ImageEncoder):
    """Pictures by the means of their channels."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.loads = 0

    def describe(self) -> dict[str, Any]:
        return {"model": "means"}

    def _load(self) -> tuple[Any, nn.Module]:
        self.loads += 1
        return halved, nn.Linear(3, 1000)

    def _encode(self, items: Sequence[Any]) -> Tensor:
        features: Tensor = self._network(self._batch(items).mean((2, 3)))
        return features


def halved(picture: Any) -> Tensor:
    """A transform of PIL images alone."""
    assert isinstance(picture, Image.Image)
    result: Tensor = to_tensor(picture) / 2
    return result


def test_a_copy_has_no_model() -> None:
    encode = Lengths()
    cheap = len(pickle.dumps(encode))
    encode(["a"])
    assert len(pickle.dumps(encode)) == cheap


def test_a_device_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^torch has no device 'nowhere' here: set teacher\.device=auto$"):
        Lengths("nowhere")(["a"])


def test_pictures_of_both_kinds_are_prepared_alike() -> None:
    pixels = torch.randint(0, 256, (3, 6, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encode = Means()
    prepared = [encode.prepare(picture) for picture in (pixels, to_pil_image(pixels))]
    for picture in prepared:
        np.testing.assert_allclose(picture, pixels / 510, rtol=1e-6)
    expected = F.normalize(encode._network(torch.stack([(pixels / 510).mean((1, 2))] * 2)), dim=1)
    torch.testing.assert_close(encode(prepared), expected)
    assert encode.loads == 1


def test_a_copy_prepares_pictures_without_the_model() -> None:
    encode, pixels = Means(), torch.zeros(3, 6, 4, dtype=torch.uint8)
    cheap = len(pickle.dumps(encode))
    expected = encode.prepare(pixels)
    assert len(pickle.dumps(encode)) < cheap + 100  # a name of the transform
    copy = pickle.loads(pickle.dumps(encode))
    np.testing.assert_array_equal(copy.prepare(pixels), expected)
    assert (copy.loads, copy._network) == (1, None)
