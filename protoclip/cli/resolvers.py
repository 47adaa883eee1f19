"""``${open_clip:FIELD}`` in a config: what open_clip's config says of the model that the towers name."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

NAMED = ("hf_text", "text_cfg")
"""Options of towers that decide the tokenizer beside the name."""


def register() -> None:
    """Make the resolver known to OmegaConf."""
    OmegaConf.register_new_resolver("open_clip", of_open_clip, replace=True)


def of_open_clip(field: str, _root_: DictConfig) -> Any:
    """A field of a named model.

    Args:
        field: ``image_size``, ``context_length``, ``hf_name`` and ``options`` of the tokenizer, or one of
            ``preprocessing``'s.
        _root_: The config, whose ``towers`` name the model.

    Raises:
        ValueError: For towers that cannot be built as configured.
    """
    from protoclip.tokenizer import create_tokenizer  # noqa: PLC0415 - torch takes seconds
    from protoclip.towers import model_config, preprocessing  # noqa: PLC0415

    towers = _root_.towers
    name = model_name(towers)
    if field == "image_size":
        return model_config(name)["vision_cfg"].get("image_size", 224)
    if field in {"context_length", "hf_name", "options"}:
        return getattr(create_tokenizer(name, **{name: towers[name] for name in NAMED}), field)
    value = preprocessing(name, towers.pretrained)[field]
    return list(value) if isinstance(value, tuple) else value


def model_name(towers: DictConfig) -> str:
    """The name of the towers' model.

    Raises:
        ValueError: For towers without.
    """
    if OmegaConf.is_missing(towers, "name"):
        raise ValueError("towers.name needs a value: add towers.name=NAME of open_clip, local-dir:DIR or hf-hub:ID")
    return str(towers.name)
