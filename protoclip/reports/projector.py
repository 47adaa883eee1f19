"""Embeddings for TensorBoard's projector, with class names and thumbnails."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from protoclip.reports.figures import Picture

SIDE = 32
"""Pixels of a thumbnail; the browser takes a sheet of 8192."""


def write_projector(
    folder: Path, name: str, features: Tensor, metadata: Sequence[str], pictures: Sequence[Picture] | None = None
) -> None:
    """Write what ``tensorboard --logdir`` shows as ``name`` in its projector; an earlier one in the folder is replaced.

    Args:
        folder: below TensorBoard's folder of a run, for the projector alone.
        name: of the embedding.
        features: [samples, dim].
        metadata: of each sample, such as the name of its class.
        pictures: of each sample: RGB PIL images or uint8 tensors [3, height, width]; None for points.
    """
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415, a second that only this needs

    shutil.rmtree(folder, ignore_errors=True)
    thumbnails = None if pictures is None else torch.stack([_thumbnail(picture) for picture in pictures])
    with SummaryWriter(str(folder)) as writer:
        writer.add_embedding(features, list(metadata), thumbnails, tag=name)


def _thumbnail(picture: Picture) -> Tensor:
    """Centre-cropped, [3, side, side] in 0 to 1."""
    image = Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()) if isinstance(picture, Tensor) else picture
    pixels = np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
