"""Figures of finished runs: embeddings side by side, and what the prototypes have gathered."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import SampleKey
from datamodules.sources import Pictures
from protoclip.evaluation import Extracted
from protoclip.instantiate import instantiate
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import PrototypeBank
from protoclip.reports.figures import PrototypePanel, prototype_gallery, prototype_neighbours, tsne_figure
from protoclip.runs import FEATURES, SETTINGS, Run, features, load

SHOWN = 6
"""Prototypes of each modality in a gallery."""
NEAREST = 6
"""Pairs shown of each prototype; smaller ones are not drawn."""
MEMBERS = 512
"""Pairs of a prototype that are looked at."""


def draw_embeddings(runs: Mapping[str, Run], pictures: str, path: Path) -> Path:
    """t-SNE of the same labelled pictures under every run's image tower.

    Args:
        runs: finished runs by title.
        pictures: name of a labelled picture set of their test.
        path: file to write.
    """
    found = {title: features(run.path)[pictures] for title, run in runs.items()}
    panels = {title: (each.image["features"], each.labels) for title, each in found.items()}
    tsne_figure(panels, path, classnames=next(iter(found.values())).classnames or None)
    return path


def stored_features(run: Run) -> Mapping[str, Extracted]:
    """What the test of a run has stored, by picture set; nothing where it has stored nothing."""
    return features(run.path) if (run.path / FEATURES).exists() else {}


@dataclass(frozen=True)
class _Sets:
    """Picture sets, as a run's settings name them."""

    test: Mapping[str, Pictures]


def picture_set(run: Run, name: str) -> Pictures | None:
    """A set of a run's test by its settings; None where it was tested on later."""
    file = run.path / SETTINGS
    settings = OmegaConf.to_container(OmegaConf.load(file)) if file.exists() else {}
    assert isinstance(settings, dict)
    found = settings.get("data", {}).get("test", {}).get(name)
    return found and instantiate(_Sets, {"test": {name: found}}, "data").test[name]


def draw_prototypes(run: Run, path: Path) -> Path:
    """Prototypes of a run's last episode, drawn at random, with their nearest pairs.

    Args:
        run: a finished run with a bank of prototypes of one modality each.
        path: file to write.

    Raises:
        ValueError: the run has none.
    """
    panels = prototype_panels(run)
    if not panels:
        raise ValueError(f"{run.path} has no prototypes of its own: set compare.prototypes_of to another arm, or null")
    prototype_gallery(path, panels)
    return path


@torch.no_grad()
def prototype_panels(run: Run) -> list[PrototypePanel]:
    """Prototypes of a run's last episode, drawn at random, with their nearest pairs, those of images first.

    Of a prototype's members the first ``MEMBERS`` are looked at, so the cost does not grow with the episode.

    Returns:
        None of a run without prototypes of its own.

    Raises:
        ValueError: they are of both modalities at once, or all small, or the run was trained on a stream.
    """
    module, settings = load(run.path)
    if "prototype" not in module.banks:
        return []
    datamodule = instantiate(ImageTextDataModule, settings["data"], "data")
    if datamodule.stream is not None:
        raise ValueError(f"{run.path} was trained on a stream, whose pairs cannot be looked up for a gallery")
    bank = module.banks["prototype"]
    assert isinstance(bank, PrototypeBank)
    sides = bank.clusterings
    if "joint" in sides:
        raise ValueError(f"{run.path} has joint prototypes, and a gallery shows those of one modality each")
    chosen_by = torch.Generator().manual_seed(settings["seed_everything"])
    members: dict[tuple[str, int], Tensor] = {}
    for teacher, side in sides.items():
        full = (side.counts >= NEAREST).nonzero().squeeze(1)
        for number in full[torch.randperm(len(full), generator=chosen_by)[:SHOWN]].tolist():
            members[teacher, number] = (side.labels == number).nonzero().squeeze(1)[:MEMBERS]
    if not members:
        raise ValueError(f"{run.path} has no prototype of {NEAREST} pairs or more to show")
    places = torch.tensor(sorted({place for own in members.values() for place in own.tolist()}))
    block = int(bank.block)
    features = _project(module, datamodule, block * datamodule.plan.refresh_every, places)
    indices = datamodule.plan.indices(block)
    panels: list[PrototypePanel] = []
    for (teacher, number), own in members.items():
        centroid = sides[teacher].centroids[[number]]
        projected = features[teacher][torch.searchsorted(places, own)]
        nearest = prototype_neighbours(projected, centroid, torch.zeros_like(own), NEAREST)[0]
        pairs = [
            datamodule.dataset.pair(SampleKey(int(indices[place]), place, 0, block, "show"))
            for place in own[nearest].tolist()
        ]
        panels.append(
            PrototypePanel(
                modality=teacher,
                id=number,
                size=int(sides[teacher].counts[number]),
                images=[pair.picture for pair in pairs],
                captions=[pair.caption for pair in pairs],
            )
        )
    return panels


def _project(
    module: ImageTextPretraining, datamodule: ImageTextDataModule, episode: int, places: Tensor
) -> dict[str, Tensor]:
    """Projected features of an episode's pairs at these places."""
    parts = []
    for batch in datamodule.extraction_dataloader(episode, places.numpy()):
        features = {key.tower: value for key, value in module(batch).items() if key.output == "prototype"}
        parts.append((features["image"], features["text"]))
    images, texts = (torch.cat(column) for column in zip(*parts, strict=True))
    return {"image": images, "text": texts}
