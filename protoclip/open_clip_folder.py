"""Folders that open_clip loads: ``open_clip.create_model_and_transforms("local-dir:DIR")``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protoclip.files import whole_folder
from protoclip.tokenizer import Tokenizer
from protoclip.towers import Towers
from protoclip.towers.configs import CONFIG_FILE, FOLDER
from protoclip.towers.factory import NOT_WEIGHTS

WEIGHTS_FILE = "open_clip_model.safetensors"
OF_TOKENIZER = ("context_length", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
"""Fields of ``text_cfg`` that say how captions are read."""


def write_open_clip_folder(
    path: Path,
    towers: Towers,
    tokenizer: Tokenizer,
    preprocess: Mapping[str, Any],
    *,
    log_scale: float,
    logit_bias: float | None = None,
) -> None:
    """Write a pair of towers as open_clip has it: regions are left out, and so is the row of a mask token.

    A transformers text tower needs its ``hf_model_name``, folder or hub id, where the model is loaded; its tokenizer
    goes into the folder.

    Args:
        path: Of the folder, which is whole or absent.
        towers: The pair.
        tokenizer: Of their captions.
        preprocess: Of open_clip's ``preprocess_cfg``: ``mean``, ``std``, ``interpolation``, ``resize_mode``.
        log_scale: Logarithm of the inverse temperature.
        logit_bias: Of a sigmoid's logits, if they have one.

    Raises:
        ValueError: The towers have what open_clip's model has not, it cannot build them, or there is something at
            ``path``.
    """
    from safetensors.torch import save_file  # noqa: PLC0415

    if towers.not_in_open_clip:
        options = ", ".join(towers.not_in_open_clip)
        raise ValueError(f"open_clip has no towers with {options}: export a run that was trained without")
    config = open_clip_config(towers, tokenizer)
    if logit_bias is not None:
        config["init_logit_bias"] = logit_bias
    state = open_clip_state(towers, log_scale=log_scale, logit_bias=logit_bias)
    with whole_folder(path) as folder:
        described = {"model_cfg": config, "preprocess_cfg": {"size": towers.image.image_size, **preprocess}}
        (folder / CONFIG_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        save_file(state, folder / WEIGHTS_FILE)
        if tokenizer.hf_name is not None:
            tokenizer.save(folder)
        _check(folder)


def _check(folder: Path) -> None:
    """See that open_clip loads a folder: of a timm model, say, it knows no other size than the model's own.

    Raises:
        ValueError: It does not.
    """
    import open_clip  # noqa: PLC0415 - takes seconds

    try:
        open_clip.create_model(f"{FOLDER}{folder}", require_pretrained=True)
    except NOT_WEIGHTS as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"open_clip cannot build these towers ({reason}): choose others to export them") from error


def open_clip_config(towers: Towers, tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``model_cfg`` of the state that ``open_clip_state`` gives, and of the tokenizer."""
    text = {key: value for key, value in towers.config["text_cfg"].items() if key not in OF_TOKENIZER}
    if towers.text.has_mask_token:
        text["vocab_size"] -= 1
    options = dict(tokenizer.options)
    found = (tokenizer.context_length, tokenizer.hf_name, options.pop("tokenizer_mode", None), options)
    text |= {key: value for key, value in zip(OF_TOKENIZER, found, strict=True) if value}
    named = {key: value for key, value in towers.config.items() if key != "init_logit_bias"}
    return {**named, "text_cfg": text, "custom_text": True}


def open_clip_state(towers: Towers, *, log_scale: float, logit_bias: float | None = None) -> dict[str, Tensor]:
    """The state dict of open_clip's ``CustomTextCLIP`` with the same weights, on the CPU."""
    state = {
        key.split(".", 1)[1]: value.detach().cpu().contiguous()
        for key, value in towers.state_dict().items()
        if not key.startswith("image.regions.")
    }
    if towers.text.has_mask_token:
        state["text.token_embedding.weight"] = state["text.token_embedding.weight"][:-1].clone()
    state["logit_scale"] = torch.tensor(log_scale)
    return state if logit_bias is None else {**state, "logit_bias": torch.tensor(logit_bias)}
