"""What all encoders share: devices, pickling, pictures of both kinds."""

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image, to_tensor

from protoclip.teachers.encoders import Encoder, stack_pictures


class Lengths(Encoder):
    """Captions by their length, through a layer with dropout."""

    kind = "text"

    def describe(self) -> dict[str, Any]:
        return {"model": "lengths"}

    def _load(self) -> tuple[Any, nn.Module]:
        return len, nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5)).half()

    def _encode(self, items: Sequence[Any]) -> Tensor:
        lengths = torch.tensor([[float(self._prepare(item))] for item in items], dtype=torch.float16)
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


def test_a_copy_has_no_model() -> None:
    encode = Lengths()
    cheap = len(pickle.dumps(encode))
    encode(["a"])
    assert len(pickle.dumps(encode)) == cheap


def test_a_device_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^torch has no device 'nowhere' here: set teacher\.device=auto$"):
        Lengths("nowhere")(["a"])


def test_a_transform_sees_pil_images_alone() -> None:
    pixels = torch.randint(0, 256, (3, 6, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = to_pil_image(pixels)
    seen: list[type] = []

    def transform(image: Any) -> Tensor:
        seen.append(type(image))
        result: Tensor = to_tensor(image)
        return result

    both = stack_pictures([pixels, picture], transform)
    assert all(issubclass(kind, Image.Image) for kind in seen)
    assert torch.equal(both[0], both[1])
    torch.testing.assert_close(both[0], pixels / 255)
