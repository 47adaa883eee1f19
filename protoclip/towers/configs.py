"""What open_clip's named models are: their config, how their pictures are prepared, and which tokens they read."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

_OWN_CONFIGS = Path(__file__).parent.parent / "model_configs"
FOLDER, HUB = "local-dir:", "hf-hub:"
WITH_WEIGHTS = (HUB, FOLDER)
"""Beginnings of the names that bring their weights."""
PARTS = {"embed_dim", "vision_cfg", "text_cfg"}
CONFIG_FILE = "open_clip_config.json"
GIVE = "give a folder or hub id of an open_clip model, such as protoclip export writes"


def model_config(
    name: str,
    *,
    image_size: int | None = None,
    embed_dim: int | None = None,
    text_layers: int | None = None,
    context_length: int | None = None,
    timm_image: str | None = None,
    hf_text: str | None = None,
    vision_cfg: Mapping[str, Any] | None = None,
    text_cfg: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The open_clip model config that ``create_towers`` builds from the arguments of the same names.

    Raises:
        ValueError: For an unknown name, a captioning model, or ``text_layers`` of a transformers model.
    """
    config = _named_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    length = text.get("context_length", 77)
    if timm_image is not None:
        # an empty pool leaves the model its own
        vision = {"timm_model_name": timm_image, "timm_pool": "", "image_size": vision.get("image_size", 224)}
    if hf_text is not None:
        text = {"hf_model_name": hf_text, "hf_tokenizer_name": hf_text}
    if text_layers is not None and "hf_model_name" in text:
        raise ValueError("text_layers is for open_clip's text transformer; leave it out with a transformers model")
    text = {"context_length": length, **text, **_given(layers=text_layers, context_length=context_length)}
    config["vision_cfg"] = {**vision, **_given(image_size=image_size), **(vision_cfg or {})}
    config["text_cfg"] = {**text, **(text_cfg or {})}
    return {**config, **_given(embed_dim=embed_dim)}


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _named_config(name: str) -> dict[str, Any]:
    """The config of a name, with nothing changed.

    Raises:
        ValueError: For an unknown name, a folder or hub id without a config, or a captioning model.
    """
    import open_clip  # noqa: PLC0415 - takes seconds

    own = sorted(path.stem for path in _OWN_CONFIGS.glob("*.json"))
    if name in own and name not in open_clip.list_models():
        open_clip.add_model_config(_OWN_CONFIGS)
    config: dict[str, Any] | None
    config = _file(name)["model_cfg"] if name.startswith(WITH_WEIGHTS) else open_clip.get_model_config(name)
    if config is None:
        near = get_close_matches(name, [*own, *open_clip.list_models()], n=5, cutoff=0.3)
        raise ValueError(f"no towers are named {name!r}; near it: {', '.join(near)}; see open_clip.list_models()")
    if "multimodal_cfg" in config:
        raise ValueError(f"{name} is a captioning model; choose one that has an image and a text tower only")
    config.pop("custom_text", None)
    return config


def _file(name: str) -> dict[str, Any]:
    """``open_clip_config.json`` of a folder or a hub id."""
    from open_clip.pretrained import download_pretrained_from_hf  # noqa: PLC0415 - takes seconds

    try:
        if name.startswith(HUB):
            path = Path(download_pretrained_from_hf(name.removeprefix(HUB), filename=CONFIG_FILE))
        else:
            path = Path(name.removeprefix(FOLDER), CONFIG_FILE)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts = found["model_cfg"].keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} holds no {CONFIG_FILE} that can be read: {GIVE}") from error
    if missing := sorted(PARTS - parts):
        raise ValueError(f"{CONFIG_FILE} of {name} lacks {', '.join(missing)} in model_cfg: {GIVE}")
    return found


def preprocessing(name: str, pretrained: str | None = None) -> dict[str, Any]:
    """How open_clip prepares the pictures of a model for evaluation.

    Args:
        name: As for ``create_towers``.
        pretrained: A tag, whose weights may want another normalisation than the name's others; a file says nothing.

    Returns:
        ``mean`` and ``std`` of the channels, ``interpolation`` (``bicubic`` or ``bilinear``) and ``resize_mode``
        (``shortest``, ``longest`` or ``squash``).

    Raises:
        ValueError: For a folder or a hub id without a config.
    """
    from open_clip import get_pretrained_cfg  # noqa: PLC0415 - takes seconds
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict  # noqa: PLC0415

    if name.startswith(WITH_WEIGHTS):
        told = _file(name).get("preprocess_cfg", {})
    else:
        told = get_pretrained_cfg(name, pretrained) if pretrained else {}
    merged = merge_preprocess_dict(asdict(PreprocessCfg()), told)
    if merged["interpolation"] != "bilinear":
        merged["interpolation"] = "bicubic"  # also for "random", which is of training alone
    return {key: merged[key] for key in ("mean", "std", "interpolation", "resize_mode")}
