"""Builds a pair of towers from the name of an open_clip config and what is changed in it."""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from traceback import extract_tb
from typing import Any

from torch import nn

from protoclip.ranges import NonNegativeInt, PositiveInt
from protoclip.towers.configs import WITH_WEIGHTS, model_config
from protoclip.towers.image import ImageTower
from protoclip.towers.leff import insert_leff
from protoclip.towers.regions import ClassToken, create_regions
from protoclip.towers.text import TextPooling, TextTower

NOT_WEIGHTS = (
    *(RuntimeError, OSError, LookupError, EOFError, TypeError, ValueError, AttributeError),
    *(StopIteration, UnpicklingError),
)
"""What open_clip and torch raise on files that are damaged, or of something else than the model."""
NO_DOWNLOAD = "Failed to download weights for tag"
"""What open_clip says where there is no network."""


class Towers(nn.Module):
    """An image and a text tower with one joint space.

    Its state dict, each key without its first word, is that of open_clip's ``CustomTextCLIP`` but for ``logit_scale``
    and for ``image.regions.*``, which pictures do not pass.

    Attributes:
        image: The image tower.
        text: The text tower.
        config: The open_clip model config of the pair.
        log_scale: Logarithm of the inverse temperature that came with the weights; ln(1/0.07) without weights.
        logit_bias: Of a sigmoid's logits, likewise; None where the config has none.
        not_in_open_clip: Options in use that open_clip's model does not have, so that the weights are not for it.
    """

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        config: Mapping[str, Any],
        log_scale: float,
        logit_bias: float | None = None,
        not_in_open_clip: tuple[str, ...] = (),
    ) -> None:
        """Join two towers."""
        super().__init__()
        self.not_in_open_clip = not_in_open_clip
        self.image = image
        self.text = text
        self.config = dict(config)
        self.log_scale = log_scale
        self.logit_bias = logit_bias


def create_towers(
    name: str,
    *,
    pretrained: str | None = None,
    image_size: PositiveInt | None = None,
    embed_dim: PositiveInt | None = None,
    text_layers: PositiveInt | None = None,
    context_length: PositiveInt | None = None,
    timm_image: str | None = None,
    hf_text: str | None = None,
    vision_cfg: Mapping[str, Any] | None = None,
    text_cfg: Mapping[str, Any] | None = None,
    mask_token: bool = False,
    text_pooling: TextPooling = "eot",
    roi_dim: PositiveInt | None = None,
    roi_class_token: ClassToken = "learned",
    roi_blocks: PositiveInt = 3,
    leff_blocks: NonNegativeInt = 0,
    grad_checkpointing: bool = False,
) -> Towers:
    """Build a pair of towers; what is None is as the named config has it.

    Args:
        name: An open_clip model, one of this project's (``small-resnet``, ``small-vit``), ``local-dir:DIR`` or
            ``hf-hub:ID``; the last two bring their weights.
        pretrained: Weights of the pair: a tag of open_clip, or a file.
        image_size: Side of the input, in pixels.
        embed_dim: Width of the joint space.
        text_layers: Depth of the text transformer.
        context_length: Most token ids of a caption.
        timm_image: A timm model that replaces the image tower, with the pooling it was made for.
        hf_text: A transformers model (folder or hub id) that replaces the text tower, with its weights.
        vision_cfg: Further fields of open_clip's vision config: ``timm_model_pretrained``, ``patch_dropout``, ...
        text_cfg: Further fields of its text config: ``hf_model_pretrained``, ``hf_pooler_type``, ...
        mask_token: Append one token to the vocabulary, for masked language modelling.
        text_pooling: ``eot``: at the end of text, or as the config says; ``max`` over all positions.
        roi_dim: Width of the regions that the image tower reads beside pictures; None for none.
        roi_class_token: In front of the regions: ``learned``, their ``mean``, or a ViT's own, ``shared``.
        roi_blocks: How many of a ViT's last blocks read regions.
        leff_blocks: How many of a ViT's first blocks have a LeFF for an MLP; it keeps the MLP's weights.
        grad_checkpointing: Recompute activations in the backward pass, where a tower can.

    Returns:
        The towers, on the CPU, in float32 and in training mode.

    Raises:
        ValueError: For an unknown name, tag or file, and for towers or weights that cannot be built as configured.
    """
    config = model_config(
        name,
        image_size=image_size,
        embed_dim=embed_dim,
        text_layers=text_layers,
        context_length=context_length,
        timm_image=timm_image,
        hf_text=hf_text,
        vision_cfg=vision_cfg,
        text_cfg=text_cfg,
    )
    model = _build(name, config, pretrained)
    text_config = config["text_cfg"]
    if leff_blocks:
        insert_leff(model.visual, leff_blocks)
    regions = create_regions(model.visual, roi_dim, roi_class_token, roi_blocks) if roi_dim else None
    image = ImageTower(model.visual, config["embed_dim"], regions)
    text = TextTower(
        model.text,
        config["embed_dim"],
        context_length=text_config["context_length"],
        tokenizer_name=text_config.get("hf_tokenizer_name"),
        pooling=text_pooling,
    )
    if mask_token:
        text.add_token()
        text_config.update(vocab_size=text.vocab_size, pool_type=text.text.pool_type, eos_id=text.text.eos_id)
    if grad_checkpointing:
        _checkpoint_gradients(model)
    options = {f"leff_blocks={leff_blocks}": leff_blocks, f"text_pooling={text_pooling}": text_pooling != "eot"}
    not_in_open_clip = tuple(option for option, used in options.items() if used)
    # transformers returns its models in evaluation mode, and Lightning keeps the mode it finds
    bias = None if model.logit_bias is None else float(model.logit_bias.detach())
    return Towers(image, text, config, float(model.logit_scale.detach()), bias, not_in_open_clip).train()


@contextmanager
def _without_needless_messages() -> Iterator[None]:
    """open_clip warns of weights from scratch, which pretraining starts from, and logs the error that it raises."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(("No pretrained weights loaded", NO_DOWNLOAD))

    root = logging.getLogger()
    root.addFilter(wanted)
    try:
        yield
    finally:
        root.removeFilter(wanted)


def _build(name: str, config: Mapping[str, Any], pretrained: str | None) -> Any:
    import open_clip  # noqa: PLC0415 - takes seconds
    from safetensors import SafetensorError  # noqa: PLC0415

    brings_weights = name.startswith(WITH_WEIGHTS)
    if pretrained is not None and brings_weights:
        raise ValueError(f"{name} brings its weights: leave pretrained={pretrained} out")
    if pretrained is not None and not Path(pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained not in tags:
            known = ", ".join(tags) or "it has none"
            raise ValueError(f"pretrained={pretrained!r} is neither a file nor a tag of {name}; tags: {known}")
        # open_clip only warns; a config with QuickGELU whose tag says nothing of it is right, such as roberta-ViT-B-32
        if open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu") and not config.get("quick_gelu"):
            raise ValueError(f"pretrained={pretrained} was trained with QuickGELU: choose the model {name}-quickgelu")
    # what is unchanged stays open_clip's to decide, such as fetching a base text model that weights then replace
    named = model_config(name)
    changed = {key: value for key, value in config.items() if value != named.get(key)}
    weights = pretrained is not None or brings_weights
    try:
        with _without_needless_messages():
            model = open_clip.create_model(
                name, pretrained=pretrained, force_custom_text=True, require_pretrained=weights, **changed
            )
        if "vision_cfg" in changed and "timm_model_name" in config["vision_cfg"]:
            model.visual.set_input_size(model.visual.image_size)
    except (*NOT_WEIGHTS, SafetensorError) as error:
        settings = ", ".join(f"{key}={value}" for key, value in [("pretrained", pretrained), *changed.items()] if value)
        raise ValueError(f"cannot build {name} with {settings}: {_reason(error)}") from error
    return model


def _reason(error: Exception) -> str:
    """One line for those of torch and open_clip."""
    text = " ".join(str(error).split())
    if text.startswith(NO_DOWNLOAD):
        return "the weights cannot be downloaded: give a file of them in place of the tag"
    if text.startswith("Error(s) in loading state_dict"):
        found = re.search(r'size mismatch for [\w.]+|\w+ key\(s\) in state_dict: "[^"]+"', text)
        return f"the weights are of another model ({found[0] if found else text[:100]}): give those of this one"
    if any(frame.name == "load_checkpoint" for frame in extract_tb(error.__traceback__)):
        return "the file holds no weights that can be read: give another"
    return f"{type(error).__name__}: {text[:300]}"


def _checkpoint_gradients(model: Any) -> None:
    if hasattr(model.visual, "attnpool"):
        warnings.warn("grad_checkpointing has no effect on open_clip's ResNets, only on the text tower", stacklevel=3)
    model.visual.set_grad_checkpointing(True)
    model.text.set_grad_checkpointing(True)
