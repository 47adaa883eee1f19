"""Towers of open_clip as teachers, against open_clip's own model."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from protoclip.teachers.open_clip_towers import OpenClipImage, OpenClipText
from tests.tiny_bert import captions


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that are not the initial ones of a next model."""
    from protoclip.towers import create_towers

    torch.manual_seed(0)
    state = create_towers("small-vit").state_dict()
    file = tmp_path_factory.mktemp("open_clip") / "weights.pt"
    torch.save({key.split(".", 1)[1]: value for key, value in state.items()} | {"logit_scale": torch.tensor(1.0)}, file)
    return str(file)


@pytest.fixture(scope="module")
def theirs(weights: str) -> tuple[Any, Any, Any]:
    """open_clip's model, preprocessing and tokenizer of the same weights."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(
        "small-vit", pretrained=weights, force_custom_text=True
    )
    return model.eval(), preprocess, open_clip.get_tokenizer("small-vit")


def test_text_features_are_open_clips(weights: str, theirs: tuple[Any, Any, Any]) -> None:
    model, _, tokenize = theirs
    texts = captions(20)
    features = OpenClipText("small-vit", weights)(texts)
    with torch.no_grad():
        expected = F.normalize(torch.cat([model.encode_text(tokenize([text])) for text in texts]), dim=1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def test_image_features_are_open_clips(weights: str, theirs: tuple[Any, Any, Any]) -> None:
    model, preprocess, _ = theirs
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 40 + 9 * i, 70), dtype=torch.uint8, generator=generator) for i in range(4)]
    encode = OpenClipImage("small-vit", weights)
    encode.prepare(pictures[0])
    worker = pickle.loads(pickle.dumps(encode))
    features = encode([worker.prepare(picture) for picture in (*pictures[:2], *map(to_pil_image, pictures[2:]))])
    assert worker._network is None
    with torch.no_grad():
        inputs = [preprocess(to_pil_image(picture))[None] for picture in pictures]
        expected = F.normalize(torch.cat([model.encode_image(one) for one in inputs]), dim=1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def test_settings_tell_the_towers_apart() -> None:
    text, image = OpenClipText("RN50", "openai").describe(), OpenClipImage("RN50", "openai").describe()
    assert text == {"library": "open_clip", "tower": "text", "model": "RN50", "pretrained": "openai"}
    assert image == text | {"tower": "image"}


def test_weights_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^RN50 without weights is no teacher: .* a tag of open_clip or a file$"):
        OpenClipText("RN50")
    OpenClipText("hf-hub:some/model")
    with pytest.raises(ValueError, match="is neither a file nor a tag of RN50; tags: "):
        OpenClipImage("RN50", str(tmp_path / "nowhere.pt")).prepare(torch.zeros(3, 8, 8, dtype=torch.uint8))
