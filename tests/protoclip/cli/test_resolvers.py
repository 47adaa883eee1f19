import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from protoclip.cli.compose import compose_config


def composed(*words: str) -> dict[str, Any]:
    config = compose_config(["towers=open_clip", *words])
    data = OmegaConf.to_container(config.datamodule, resolve=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()} | {"towers_size": config.towers.image_size}


def test_sizes_and_tokenizer_are_the_models() -> None:
    data = composed("towers.name=small-vit")
    assert (data["image_size"], data["towers_size"]) == (48, 48)
    tokenizer = {key: value for key, value in data["tokenize"].items() if key != "_target_"}
    assert tokenizer == {"context_length": 32, "hf_name": None, "options": {}}
    assert data["mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert composed("towers.name=small-vit", "towers.image_size=64", "towers.context_length=9")["image_size"] == 64


def test_words_win() -> None:
    tokenizer = composed("towers.name=small-vit", "towers.hf_text=a/b", "towers.context_length=9")["tokenize"]
    assert (tokenizer["hf_name"], tokenizer["context_length"]) == ("a/b", 9)
    data = composed("towers.name=small-vit", "towers.text_cfg={tokenizer_kwargs:{clean:lower}}")
    assert data["tokenize"]["options"] == {"clean": "lower"}


def test_a_folder_has_its_tokenizer(tmp_path: Path) -> None:
    text = {"context_length": 7, "hf_tokenizer_name": "gone", "hf_model_name": "gone"}
    model = {"embed_dim": 8, "vision_cfg": {"image_size": 40}, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": {"std": [1, 2, 3]}})
    )
    data = composed(f"towers.name=local-dir:{tmp_path}")
    assert (data["image_size"], data["std"]) == (40, [1, 2, 3])
    assert (data["tokenize"]["hf_name"], data["tokenize"]["context_length"]) == (str(tmp_path), 7)
