"""``protoclip import``: a checkpoint of open_clip as a folder to go on training from."""

from math import exp
from pathlib import Path

from rich.console import Console

from protoclip.open_clip_folder import write_open_clip_folder
from protoclip.tokenizer import create_tokenizer
from protoclip.towers import create_towers, preprocessing
from protoclip.towers.configs import FOLDER, WITH_WEIGHTS


def import_weights(source: str, folder: Path, model: str | None = None, console: Console | None = None) -> None:
    """Check weights against their model, write both as a folder, and print the words to train with.

    A checkpoint of open_clip's training gives its weights, not its optimizer.

    Args:
        source: a folder that open_clip loads, ``hf-hub:ID``, or a file or tag of ``model``.
        folder: to write, whole or not at all.
        model: the name that open_clip has for the architecture.
        console: where to print.

    Raises:
        ValueError: no such model, other weights than its, weights that are not finite, or something at ``folder``.
    """
    name, pretrained = _named(source, model)
    towers = create_towers(name, pretrained=pretrained)
    for key, value in towers.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{key.partition('.')[2]} of {source} is not finite: give another checkpoint")
    write_open_clip_folder(
        folder,
        towers,
        create_tokenizer(name),
        preprocessing(name, pretrained),
        log_scale=towers.log_scale,
        logit_bias=towers.logit_bias,
    )
    words = ["towers=open_clip", f"towers.name={FOLDER}{folder}", f"temperatures.clip.init={exp(-towers.log_scale)}"]
    if towers.logit_bias is not None:
        words += ["terms.image_text.loss=sigmoid", f"temperatures.clip.bias={towers.logit_bias}"]
    (console or Console()).print(
        f"wrote {folder}; to go on training: protoclip-train {' '.join(words)}", soft_wrap=True, markup=False
    )


def _named(source: str, model: str | None) -> tuple[str, str | None]:
    """What ``create_towers`` calls a model and its weights.

    Raises:
        ValueError: nothing says what the weights are of.
    """
    name = f"{FOLDER}{source}" if Path(source).is_dir() else source
    if name.startswith(WITH_WEIGHTS):
        if model is not None:
            raise ValueError(f"{source} says which model it is: leave --model {model} out")
        return name, None
    if model is None:
        raise ValueError(f"{source} does not say which model it is: add --model NAME, such as --model RN50-quickgelu")
    return model, source
