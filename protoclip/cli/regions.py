"""``protoclip regions``: the regions of each picture of the corpus, detected once and kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from torch import Tensor

from datamodules.region_cache import RegionCache, make_regions
from protoclip.caches import Sample
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import section, training_corpus
from protoclip.cli.keyed_corpus import CorpusPair, corpus_size, keyed_samples
from protoclip.detector import Detector
from protoclip.ranges import PositiveInt


@dataclass
class Settings:
    """What ``detector`` says.

    Attributes:
        name: of the detector.
        folder: of the regions.
        batch_size: pictures that are looked at at once.
        model: what finds them.
        dim: numbers of a box, which the image tower of a training reads.
        rows: what training reads.
    """

    name: str
    folder: str
    batch_size: PositiveInt
    model: Detector
    dim: PositiveInt
    rows: RegionCache


def detect_regions(words: Sequence[str]) -> None:
    """Detect the regions of a config's corpus; what is finished is left, what was interrupted goes on.

    Args:
        words: Hydra's, such as ``data=scenes detector=fasterrcnn_resnet50``.

    Raises:
        ValueError: no detector is chosen, or it cannot be built, or its regions cannot be written.
    """
    config = compose_config(words)
    if "detector" not in config:
        raise ValueError("no detector is chosen: add detector=fasterrcnn_resnet50, or another")
    settings = section(Settings, "detector", config)
    source = training_corpus(config)
    console = Console()
    samples = keyed_samples(source, _picture, f"detecting by {settings.name}", config.num_workers, console)
    made = make_regions(
        settings.folder,
        settings.model,
        samples,
        corpus=source.fingerprint,
        pairs=corpus_size(source),
        batch_size=settings.batch_size,
    )
    if not made:
        console.print(f"{settings.folder} is finished: nothing to do", soft_wrap=True)
        return
    facts = settings.rows.facts
    told = f"{facts['regions']} regions of {facts['dim']} dimensions in {facts['pairs']} pictures"
    none = f"{facts['without_regions']} have none, {facts['unreadable']} of those are unreadable"
    console.print(f"{settings.folder}: {told}; {none}", soft_wrap=True)


def _picture(pair: CorpusPair) -> Sample:
    """The picture of a pair: an array, since each tensor would hold a file open on its way from a worker."""
    picture = pair.image()
    if isinstance(picture, Tensor):
        return [picture.numpy()]
    return [np.array(picture).transpose(2, 0, 1)]
