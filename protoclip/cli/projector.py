"""The embeddings of a run in TensorBoard's projector."""

from pathlib import Path

import numpy as np
import torch

from protoclip.cli.figures import picture_set
from protoclip.evaluation import Extracted
from protoclip.reports.projector import write_projector
from protoclip.runs import Run

POINTS = 2000


def project(run: Run, name: str, found: Extracted) -> Path:
    """Write the image features of a labelled set into a run's TensorBoard folder, the same samples for every run.

    Thumbnails are those of the set as the run's settings have it, names of classes those that the features hold.

    Args:
        run: a finished run.
        name: of the set.
        found: its features.

    Returns:
        The folder.
    """
    total = len(found.labels)
    shown = np.sort(np.random.default_rng(0).permutation(total)[:POINTS]).tolist()
    pictures = picture_set(run, name)
    labels = [int(found.labels[index]) for index in shown]
    folder = run.path / "tensorboard" / "projector"
    write_projector(
        folder,
        name,
        found.image["features"][torch.tensor(shown)].float(),
        [found.classnames[label] if found.classnames else str(label) for label in labels],
        [pictures.image(index) for index in shown] if pictures else None,
    )
    return folder
