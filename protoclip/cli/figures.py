"""Figures of finished runs: embeddings side by side, and what the prototypes have gathered."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import SampleKey
from protoclip.instantiate import instantiate
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import PrototypeBank
from protoclip.reports.figures import PrototypePanel, prototype_gallery, prototype_neighbours, tsne_figure
from protoclip.runs import Run, load

SHOWN = 6
"""Prototypes of each modality in a gallery."""
NEAREST = 6
"""Pairs shown of each prototype; smaller ones are not drawn."""
STUDENTS_TEACHERS = {"cross": {"text": "image", "image": "text"}, "same": {"image": "image", "text": "text"}}
"""By source: the side of the bank, and the modality whose clusters it holds."""


@torch.no_grad()
def draw_embeddings(runs: Mapping[str, Run], pictures: str, path: Path) -> Path:
    """t-SNE of the same labelled pictures under every run's image tower.

    Args:
        runs: finished runs by title.
        pictures: name of a labelled picture set of their test.
        path: file to write.
    """
    panels: dict[str, tuple[Tensor, Tensor]] = {}
    classnames = None
    for title, run in runs.items():
        module, settings = load(run.path)
        datamodule = instantiate(ImageTextDataModule, settings["data"], "data")
        classnames = getattr(datamodule.test[pictures], "classnames", None)
        parts = [
            (module.encode("image", batch["image"])["features"], batch["label"])
            for batch in datamodule.evaluation_dataloader(datamodule.test[pictures])
        ]
        features, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        panels[title] = (features, labels)
    tsne_figure(panels, path, classnames=classnames)
    return path


@torch.no_grad()
def draw_prototypes(run: Run, path: Path) -> Path:
    """Prototypes of a run's last episode, drawn at random, with their nearest pairs.

    Args:
        run: a finished run with a bank of prototypes of one modality each.
        path: file to write.

    Raises:
        ValueError: the run has none.
    """
    module, settings = load(run.path)
    if "prototype" not in module.banks:
        raise ValueError(f"{run.path} has no prototypes of its own: set compare.prototypes_of to another arm, or null")
    datamodule = instantiate(ImageTextDataModule, settings["data"], "data")
    bank = module.banks["prototype"]
    assert isinstance(bank, PrototypeBank)
    block = int(bank.block)
    indices = datamodule.plan.indices(block)
    features = _project(module, datamodule, block * datamodule.plan.refresh_every)
    chosen_by = torch.Generator().manual_seed(settings["seed_everything"])
    panels: list[PrototypePanel] = []
    for modality, teacher in STUDENTS_TEACHERS[bank.source].items():
        side = bank.side(modality)
        labelled = (side.labels >= 0).nonzero().squeeze(1)
        nearest = prototype_neighbours(features[teacher][labelled], side.centroids, side.labels[labelled], NEAREST)
        full = (side.counts >= NEAREST).nonzero().squeeze(1)
        for number in full[torch.randperm(len(full), generator=chosen_by)[:SHOWN]].tolist():
            pairs = [
                datamodule.dataset.pair(SampleKey(int(indices[place]), place, 0, block, "show"))
                for place in labelled[nearest[number]].tolist()
            ]
            panels.append(
                PrototypePanel(
                    modality="image" if teacher == "image" else "text",
                    id=number,
                    size=int(side.counts[number]),
                    images=[pair.picture for pair in pairs],
                    captions=[pair.caption for pair in pairs],
                )
            )
    prototype_gallery(path, panels)
    return path


def _project(module: ImageTextPretraining, datamodule: ImageTextDataModule, episode: int) -> dict[str, Tensor]:
    """Projected features of an episode's pairs by position."""
    parts = []
    for batch in datamodule.extraction_dataloader(episode):
        features = {key.tower: value for key, value in module(batch).items() if key.output == "prototype"}
        parts.append((features["image"], features["text"]))
    images, texts = (torch.cat(column) for column in zip(*parts, strict=True))
    return {"image": images, "text": texts}
