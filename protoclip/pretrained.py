"""Models of transformers, from a folder, the hub or an installed package."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

PACKAGE = "package:"
"""Before the name of an installed Python package, and a folder in it, that a model lies in."""


def load_pretrained(model: str, auto: Any, *, revision: str | None, option: str) -> tuple[Any, Any]:
    """A tokenizer and a network, on the CPU in float32.

    Args:
        model: Folder or hub id, or ``package:NAME/FOLDER`` for a folder in an installed Python package.
        auto: The class of transformers that knows the architecture, such as ``AutoModel``.
        revision: Of a hub id: branch, tag or commit.
        option: That sets the model, for messages.

    Raises:
        ValueError: There is no such model, or it is damaged or of another kind.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds

    place = package_folder(model, option) if model.startswith(PACKAGE) else model
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        network = auto.from_pretrained(place, revision=revision, dtype=torch.float32)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(f"{option}={model}: {reason}: give a folder or hub id of transformers") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a folder without one
        raise ValueError(f"{option}={model} has no vocabulary: put its tokenizer's files beside the weights")
    return tokenizer, network


def package_folder(model: str, option: str) -> Path:
    """The folder of ``package:NAME/FOLDER``, which an option sets.

    Raises:
        ValueError: The package is not installed.
    """
    name, _, folder = model.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(files(name))) / folder
    except ModuleNotFoundError as error:
        raise ValueError(f"{option}={model} is not installed: pip install {name.replace('_', '-')}") from error
