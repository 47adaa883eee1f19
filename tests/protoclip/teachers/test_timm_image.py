"""Models of timm as teachers, against timm's own model."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from protoclip.teachers.timm_image import TimmImage


def test_features_are_timms_without_the_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("test_vit", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 50 + 9 * i, 70), dtype=torch.uint8, generator=generator) for i in range(3)]
    encode = TimmImage("test_vit", pretrained=str(tmp_path / "weights.pt"))
    encode.prepare(pictures[0])
    worker = pickle.loads(pickle.dumps(encode))
    features = encode([worker.prepare(picture) for picture in (pictures[0], *map(to_pil_image, pictures[1:]))])
    assert worker._network is None
    transform: Any = create_transform(**resolve_model_data_config(model))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        inputs = torch.stack([transform(to_pil_image(picture)) for picture in pictures])
        expected = F.normalize(model.forward_head(model.forward_features(inputs), pre_logits=True), dim=1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    assert encode.dim == model.num_features


def test_settings_name_the_model_without_loading_it() -> None:
    encode = TimmImage("test_vit", pretrained="weights.pt")
    assert encode.describe() == {"library": "timm", "model": "test_vit", "pretrained": "weights.pt"}


def test_what_is_missing_is_told_in_one_line(tmp_path: Path) -> None:
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^test_vit without weights is no teacher: "):
        TimmImage("test_vit", pretrained=False)
    with pytest.raises(ValueError, match=r"^pretrained=.*nowhere\.pt: there is no such file: "):
        TimmImage("test_vit", pretrained=str(tmp_path / "nowhere.pt")).prepare(picture)
    with pytest.raises(ValueError, match=r"^no_such with pretrained=True: Unknown model .*: give another pair$"):
        TimmImage("no_such").prepare(picture)
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"^test_vit with pretrained=.*bad\.pt: [^\n]*: give another pair$"):
        TimmImage("test_vit", pretrained=str(tmp_path / "bad.pt")).prepare(picture)
