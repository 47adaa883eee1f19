"""What is written is what open_clip loads, and gives the same features."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.views import MEAN, STD
from protoclip.cli import main
from protoclip.cli.import_ import import_weights
from protoclip.open_clip_folder import write_open_clip_folder
from protoclip.tokenizer import Tokenizer, create_tokenizer
from protoclip.towers import Towers, create_towers, preprocessing
from tests.protoclip.test_towers import shake
from tests.tiny_bert import save_tiny_bert

SMALL: dict[str, Any] = {"image_size": 32, "embed_dim": 16, "text_layers": 1, "context_length": 16}
SMALL["text_cfg"] = {"width": 16, "heads": 2}
RESNET: dict[str, Any] = {**SMALL, "vision_cfg": {"width": 8, "layers": [1, 1, 1, 1]}}
VIT: dict[str, Any] = {**SMALL, "vision_cfg": {"width": 32, "layers": 1, "head_width": 16}}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": list(STD), "interpolation": "bilinear", "resize_mode": "squash"}
CAPTIONS = ["a red dog on the grass", "the cat"]


def written(folder: Path, name: str, hf_text: str | None = None, **options: Any) -> tuple[Towers, Tokenizer]:
    towers = create_towers(name, hf_text=hf_text, **options)
    shake(towers)
    length = options.get("context_length")
    tokenizer = create_tokenizer(name, context_length=length, hf_text=hf_text)
    write_open_clip_folder(folder, towers.eval(), tokenizer, PREPROCESS, log_scale=2.5)
    return towers, tokenizer


def state(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "open_clip_model.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small-resnet", {**RESNET, "mask_token": True}),
        ("small-vit", {**VIT, "roi_dim": 4, "roi_blocks": 1}),
        ("small-vit", {**VIT, "text_cfg": {}, "text_layers": None, "hf_text": "BERT"}),
        ("small-vit", {**VIT, "timm_image": "test_vit", "image_size": 160, "vision_cfg": {}}),
    ],
)
def test_open_clip_gives_the_same_features(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    import open_clip

    if "hf_text" in options:
        options = {**options, "hf_text": save_tiny_bert(tmp_path / "bert")}
    folder = tmp_path / "model"
    towers, tokenizer = written(folder, name, **options)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    assert torch.equal(ids, tokenizer(CAPTIONS))
    assert torch.equal(ids, create_tokenizer(f"local-dir:{folder}")(CAPTIONS))
    images = torch.randn(2, 3, towers.image.image_size, towers.image.image_size)
    with torch.no_grad():
        image, text = theirs.eval().encode_image(images), theirs.encode_text(ids)
        torch.testing.assert_close(image, towers.image(images)["embedding"], rtol=0, atol=1e-6)
        torch.testing.assert_close(text, towers.text(ids)["embedding"], rtol=0, atol=1e-6)
    assert float(theirs.logit_scale) == 2.5
    assert theirs.visual.preprocess_cfg["mean"] == PREPROCESS["mean"]
    assert "interpolation=bilinear" in str(transform)
    assert not [key for key in state(folder) if "regions" in key]
    if options.get("mask_token"):
        assert len(theirs.text.token_embedding.weight) == 49_408


def test_what_is_imported_from_an_export_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "one", "small-resnet", **RESNET, mask_token=True)
    assert main(["import", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert preprocessing(f"local-dir:{tmp_path}/two") == PREPROCESS
    configs = [(tmp_path / name / "open_clip_config.json").read_text() for name in ("one", "two")]
    assert configs[0] == configs[1]
    told = capsys.readouterr().out
    init = float(told.split("temperatures.clip.init=")[1].split()[0])
    assert math.log(1 / init) == pytest.approx(2.5, abs=1e-12)
    assert f"protoclip-train towers=open_clip towers.name=local-dir:{tmp_path}/two" in told


def test_a_checkpoint_of_open_clips_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    towers, _ = written(tmp_path / "one", "small-vit", **VIT)
    weights = state(tmp_path / "one")
    saved = {"module." + key: value for key, value in weights.items()} | {"module.logit_bias": torch.tensor(-9.0)}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"epoch": 3, "name": "x", "state_dict": saved, "optimizer": optimizer}, tmp_path / "epoch_3.pt")
    own = create_towers(f"local-dir:{tmp_path}/one")
    assert towers.config == {**own.config, "text_cfg": towers.config["text_cfg"]}
    import open_clip

    named = {**towers.config, "init_logit_bias": -10.0, "custom_text": True}
    open_clip.factory._MODEL_CONFIGS["small-sigmoid"] = named
    try:
        import_weights(str(tmp_path / "epoch_3.pt"), tmp_path / "two", "small-sigmoid")
    finally:
        del open_clip.factory._MODEL_CONFIGS["small-sigmoid"]
    found = state(tmp_path / "two")
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert float(found["logit_bias"]) == -9
    assert create_towers(f"local-dir:{tmp_path}/two").logit_bias == -9
    assert "terms.image_text.loss=sigmoid temperatures.clip.bias=-9.0" in capsys.readouterr().out


def test_mistakes_of_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*argv: str) -> str:
        assert main(["import", *argv, str(tmp_path / "new")]) == 2
        assert not (tmp_path / "new").exists()
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    (tmp_path / "damaged.pt").write_bytes(b"PK\3\4")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"visual.x": torch.zeros(3)}, tmp_path / "other.pt")
    assert "does not say which model it is: add --model NAME" in told(str(tmp_path / "damaged.pt"))
    assert "neither a file nor a tag of small-vit" in told(str(tmp_path / "nothing.pt"), "--model", "small-vit")
    for name in ("damaged", "tensor", "other"):
        assert "cannot build small-vit with pretrained=" in told(str(tmp_path / f"{name}.pt"), "--model", "small-vit")
    assert "holds no open_clip_config.json" in told(str(tmp_path))
    assert "leave --model small-vit out" in told(str(tmp_path), "--model", "small-vit")
    towers = create_towers("small-vit", **VIT)
    with torch.no_grad():
        towers.image.visual.proj[0, 0] = torch.inf
    arguments = (create_tokenizer("small-vit", context_length=16), {"mean": MEAN, "std": STD})
    write_open_clip_folder(tmp_path / "infinite", towers, *arguments, log_scale=2.5)
    assert "visual.proj of " in told(str(tmp_path / "infinite"))


def test_refusals_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for option, name in (({"text_pooling": "max"}, "text_pooling=max"), ({"leff_blocks": 1}, "leff_blocks=1")):
        with pytest.raises(ValueError, match=f"open_clip has no towers with {name}: export a run"):
            written(tmp_path / "model", "small-vit", **VIT, **option)
    with pytest.raises(ValueError, match=r"open_clip cannot build these towers \(.*pos_embed.*\): choose others"):
        written(tmp_path / "model", "small-vit", **{**VIT, "timm_image": "test_vit", "vision_cfg": {}})
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists: give a folder that does not"):
        written(tmp_path / "there", "small-vit", **VIT)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path / "model", "small-vit", **VIT)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
