import json
from pathlib import Path

import pytest

from protoclip.towers import create_towers, model_config, preprocessing

OPENAI = (0.48145466, 0.4578275, 0.40821073)


def test_preprocessing_is_that_of_the_tag() -> None:
    assert preprocessing("RN50-quickgelu", "yfcc15m") == {
        "mean": OPENAI, "std": (0.26862954, 0.26130258, 0.27577711), "interpolation": "bicubic",
        "resize_mode": "shortest",
    }  # fmt: skip
    assert preprocessing("ViT-B-16-SigLIP")["resize_mode"] == "shortest"
    assert preprocessing("ViT-B-16-SigLIP", "webli")["resize_mode"] == "squash"
    assert preprocessing("ViT-B-16-SigLIP", "/a/file.pt")["mean"] == OPENAI


def test_preprocessing_of_a_folder(tmp_path: Path) -> None:
    told = {"mean": [0.5, 0.5, 0.5], "interpolation": "random", "size": 64, "resize_mode": "longest"}
    config = {"model_cfg": model_config("small-vit"), "preprocess_cfg": told}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    found = preprocessing(f"local-dir:{tmp_path}")
    assert (found["mean"], found["interpolation"], found["resize_mode"]) == ([0.5, 0.5, 0.5], "bicubic", "longest")
    assert model_config(f"local-dir:{tmp_path}") == model_config("small-vit")
    with pytest.raises(ValueError, match=r"cannot build local-dir:.*Required pretrained weights .* not be loaded"):
        create_towers(f"local-dir:{tmp_path}")
    with pytest.raises(ValueError, match="brings its weights: leave pretrained=openai out"):
        create_towers(f"local-dir:{tmp_path}", pretrained="openai")


@pytest.mark.parametrize("text", ["", "[]", '{"model_cfg": 3}', '{"mean": 0}', "\xff"])
def test_a_folder_without_a_config(text: str, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"holds no open_clip_config\.json that can be read: give a folder or hub id"):
        model_config(f"local-dir:{tmp_path}")


def test_a_config_that_lacks_a_tower(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 8, "text_cfg": {}}}')
    with pytest.raises(ValueError, match="lacks vision_cfg in model_cfg: give a folder"):
        model_config(f"local-dir:{tmp_path}")
