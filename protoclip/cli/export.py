"""``protoclip export``: the towers of a run as a folder that open_clip loads."""

from pathlib import Path

from rich.console import Console

from datamodules.views import MEAN, STD
from protoclip.instantiate import instantiate
from protoclip.open_clip_folder import write_open_clip_folder
from protoclip.runs import load
from protoclip.temperature import Temperature
from protoclip.tokenizer import Tokenizer

PREPARED = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
"""How a run's pictures are prepared where its settings do not say."""
TEMPERATURE = "clip"
"""Name of the temperature of image-text contrast."""


def export(source: Path, folder: Path, console: Console | None = None) -> None:
    """Write the model of a run for open_clip.

    Args:
        source: a run directory, which means its last checkpoint, or a file in its folder ``checkpoints``.
        folder: to write, whole or not at all.
        console: where to print.

    Raises:
        ValueError: no such run, a model that open_clip has not, or something at ``folder``.
    """
    module, settings = load(source)
    data = settings["data"]
    preprocess = {name: data.get(name, default) for name, default in PREPARED.items()}
    scale, bias = module.towers.log_scale, module.towers.logit_bias
    if TEMPERATURE in module.temperatures:
        temperature = module.temperatures[TEMPERATURE]
        assert isinstance(temperature, Temperature)
        scale = float(temperature.log_scale.detach())
        bias = None if temperature.bias is None else float(temperature.bias.detach())
    tokenizer = instantiate(Tokenizer, data["tokenize"]["init_args"], "tokenize")
    write_open_clip_folder(folder, module.towers, tokenizer, preprocess, log_scale=scale, logit_bias=bias)
    (console or Console()).print(
        f'wrote {folder}: open_clip.create_model_and_transforms("local-dir:{folder}")', soft_wrap=True, markup=False
    )
