"""Figures of a run: t-SNE panels and a gallery of prototypes.

Figures are made without pyplot, so matplotlib's global state is left alone; the file's suffix picks the format.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import IO, Any, TypeAlias, TypedDict

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

Picture: TypeAlias = Image.Image | Tensor
Array: TypeAlias = NDArray[Any]

OTHER = "#d0d0d0"
PALETTE = (*list(TABLEAU_COLORS.values())[:7], "#333333", *list(TABLEAU_COLORS.values())[8:])
"""The classes that get a colour in a t-SNE figure: matplotlib's ten, the grey replaced because ``OTHER`` is."""

TSNE_SAMPLES = 5
"""The fewest that are drawn."""
DPI = 150
THUMBNAIL = 160  # pixels
BLOCK_WIDTH = 5.8  # inches, as all lengths below
LINE_HEIGHT = 0.14
TITLE_HEIGHT = 0.3
GAP = 0.25
FONT_SIZE = 8.0
CAPTION_LINES = 2


class PrototypePanel(TypedDict):
    """One prototype of a gallery."""

    modality: str
    """``image`` or ``text``: the side that was clustered."""
    id: int
    size: int
    """Samples assigned to it."""
    images: Sequence[Picture]
    """Nearest first: RGB PIL images or uint8 tensors [3, height, width]."""
    captions: Sequence[str]


def tsne_figure(
    panels: Mapping[str, tuple[Tensor, Tensor]],
    path: str | os.PathLike[str] | IO[bytes],
    *,
    classnames: Sequence[str] | None = None,
    legend: bool = True,
    seed: int = 0,
    points: int = 2000,
) -> None:
    """Write t-SNE maps of several feature sets of the same samples side by side.

    Features are L2-normalised first, since contrastive embeddings are compared by angle. Beyond ten labels, the ten
    most frequent are coloured (the first ones, where all are equally frequent) and the others grey.

    Args:
        panels: Title to (features [samples, dim], labels [samples]); the samples are the same in every panel.
        path: File to write, by its name or open.
        classnames: Names in the order of the labels; None: the numbers.
        legend: Whether the colours are named beside the panels; without, where ``label_legend`` is shown.
        seed: Draws the points and starts t-SNE.
        points: Samples shown, the same ones in every panel.

    Raises:
        ValueError: If there are no panels, fewer than ``TSNE_SAMPLES``, counts that differ, or a label without a name.
    """
    labels = {title: panel_labels.cpu().numpy() for title, (_, panel_labels) in panels.items()}
    _check_panels(panels, classnames)
    total = len(next(iter(labels.values())))
    shown = np.sort(np.random.default_rng(seed).permutation(total)[:points])
    together = np.concatenate(list(labels.values()))
    colours = _label_colours(together)
    figure = Figure(figsize=(4 * len(panels) + (1.6 if legend else 0), 4.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, (features, _)) in zip(axes, panels.items(), strict=True):
        _scatter(axis, _tsne(features[torch.from_numpy(shown)], seed), labels[title][shown], colours)
        axis.set_title(title, fontsize=11, parse_math=False)
    if legend:
        named = label_legend(together, classnames)
        handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in named]
        drawn = figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
        for text in drawn.get_texts():
            text.set_parse_math(False)
    figure.savefig(path, dpi=DPI)


def label_legend(labels: Array, classnames: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Names and colours of the labels that ``tsne_figure`` colours, in their order, and of the others if there are any.

    Args:
        labels: Of all samples.
        classnames: Names in the order of the labels; None: the numbers.
    """
    colours = _label_colours(labels)
    entries = [(classnames[label] if classnames else str(label), colour) for label, colour in colours.items()]
    return entries + ([("other", OTHER)] if len(np.unique(labels)) > len(colours) else [])


def _label_colours(labels: Array) -> dict[int, str]:
    values, counts = np.unique(labels, return_counts=True)
    coloured = sorted(values[np.argsort(-counts, kind="stable")][: len(PALETTE)].tolist())
    return dict(zip(coloured, PALETTE, strict=False))


def _check_panels(panels: Mapping[str, tuple[Tensor, Tensor]], classnames: Sequence[str] | None) -> None:
    if not panels:
        raise ValueError("tsne_figure needs at least one panel")
    total = len(next(iter(panels.values()))[0])
    if total < TSNE_SAMPLES:
        raise ValueError(f"t-SNE needs at least {TSNE_SAMPLES} samples, got {total}")
    for title, (features, labels) in panels.items():
        if len(features) != total or len(labels) != total:
            raise ValueError(
                f"panel {title!r} has {len(features)} features and {len(labels)} labels, the first panel {total}: "
                "all panels show the same samples"
            )
        if classnames is not None and not 0 <= int(labels.min()) <= int(labels.max()) < len(classnames):
            raise ValueError(f"panel {title!r} has a label outside the {len(classnames)} classnames")


def _tsne(features: Tensor, seed: int) -> Array:
    from sklearn.manifold import TSNE  # noqa: PLC0415, a second that only this figure needs

    unit = functional.normalize(features.detach().float(), dim=-1).cpu().numpy()
    perplexity = min(30.0, (len(unit) - 1) / 3)
    embedding: Array = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)
    return embedding


def _scatter(axis: Axes, embedding: Array, labels: Array, colours: Mapping[int, str]) -> None:
    size = 7 if len(labels) > 500 else 14
    others = ~np.isin(labels, list(colours))
    axis.scatter(embedding[others, 0], embedding[others, 1], s=size * 0.6, color=OTHER, linewidths=0)
    for label, colour in colours.items():
        chosen = embedding[labels == label]
        axis.scatter(chosen[:, 0], chosen[:, 1], s=size, color=colour, linewidths=0, alpha=0.8)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("#bbbbbb")


def prototype_neighbours(features: Tensor, centroids: Tensor, labels: Tensor, k: int) -> Tensor:
    """Find the members of each prototype that lie nearest to its centroid.

    Args:
        features: [samples, dim], in the space of the centroids.
        centroids: [prototypes, dim].
        labels: [samples] prototype of each sample.
        k: Members per prototype.

    Returns:
        [prototypes, k] sample indices, nearest first (Euclidean; of equals, the earlier sample); -1 where a
        prototype has fewer members.

    Raises:
        ValueError: If shapes do not fit, k is below 1 or a label is out of range.
    """
    if features.ndim != 2 or centroids.ndim != 2 or features.shape[1] != centroids.shape[1]:
        raise ValueError(f"features {list(features.shape)} and centroids {list(centroids.shape)} are not of one space")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels has the shape {list(labels.shape)}, but there are {len(features)} samples")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(centroids):
        raise ValueError(f"labels must lie in 0 to {len(centroids) - 1}, the prototypes")
    order = (features - centroids[labels]).norm(dim=1).argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    owner = labels[order]
    counts = torch.bincount(labels, minlength=len(centroids))
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[owner]
    nearest = torch.full((len(centroids), k), -1, device=order.device)
    nearest[owner[place < k], place[place < k]] = order[place < k]
    return nearest


def prototype_gallery(path: str | os.PathLike[str], prototypes: Sequence[PrototypePanel]) -> None:
    """Write a page of prototypes: image prototypes on the left, text prototypes on the right, one per row and side.

    Each shows its nearest images in a strip and its nearest captions beneath, two lines at most per caption.

    Args:
        path: File to write.
        prototypes: In the order of the rows.

    Raises:
        ValueError: If there are none, or a modality is neither ``image`` nor ``text``.
    """
    if wrong := {panel["modality"] for panel in prototypes} - {"image", "text"}:
        raise ValueError(f"modality must be image or text, got {sorted(wrong)[0]!r}")
    if not prototypes:
        raise ValueError("prototype_gallery needs at least one prototype")
    blocks = [[panel for panel in prototypes if panel["modality"] == side] for side in ("image", "text")]
    blocks = [block for block in blocks if block]
    strip_length = max(1, *(len(panel["images"]) for panel in prototypes))
    strip_height = BLOCK_WIDTH / strip_length
    captions = [[_wrapped(panel["captions"]) for panel in block] for block in blocks]
    rows = max(map(len, blocks))
    lines = [max(texts[row].count("\n") + 1 for texts in captions if row < len(texts)) for row in range(rows)]
    heights = [TITLE_HEIGHT + strip_height + LINE_HEIGHT * count + GAP for count in lines]
    width, height = len(blocks) * (BLOCK_WIDTH + GAP) + GAP, sum(heights) + GAP
    figure = Figure(figsize=(width, height))
    for column, (block, texts) in enumerate(zip(blocks, captions, strict=True)):
        left = GAP + column * (BLOCK_WIDTH + GAP)
        for row, (panel, text) in enumerate(zip(block, texts, strict=True)):
            top = height - GAP - sum(heights[:row])
            _panel(figure, panel, text, left, top, strip_height, strip_length)
    figure.savefig(path, dpi=DPI)


def _panel(
    figure: Figure, panel: PrototypePanel, captions: str, left: float, top: float, strip_height: float, length: int
) -> None:
    """Draw one prototype with its upper left corner at a place in inches."""
    width, height = figure.get_size_inches()
    title = f"{panel['modality']} prototype {panel['id']}"
    figure.text(left / width, top / height, title, fontsize=FONT_SIZE + 1, weight="bold", va="top")
    right = (left + BLOCK_WIDTH) / width
    figure.text(
        right, top / height, f"{panel['size']:,} samples", fontsize=FONT_SIZE, color="#666666", va="top", ha="right"
    )
    bottom = top - TITLE_HEIGHT * 0.7 - strip_height
    axis = figure.add_axes((left / width, bottom / height, BLOCK_WIDTH / width, strip_height / height))
    axis.imshow(prototype_strip(panel["images"], length), aspect="auto", interpolation="lanczos")
    axis.set_axis_off()
    place = (left / width, (bottom - 0.05) / height)
    figure.text(*place, captions, fontsize=FONT_SIZE, va="top", linespacing=1.2, parse_math=False)


def prototype_strip(images: Sequence[Picture], length: int) -> Array:
    """Centre-cropped thumbnails [height, width, 3] in a row of ``length`` places, white where there are fewer."""
    strip = Image.new("RGB", (length * THUMBNAIL, THUMBNAIL), "white")
    margin = 3
    for place, picture in enumerate(images):
        image = Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()) if isinstance(picture, Tensor) else picture
        side = THUMBNAIL - margin
        strip.paste(ImageOps.fit(image.convert("RGB"), (side, side)), (place * THUMBNAIL, 0))
    return np.asarray(strip)


def _wrapped(captions: Sequence[str]) -> str:
    """One paragraph per caption, cut after ``CAPTION_LINES`` lines."""
    width = int(BLOCK_WIDTH * 72 / (0.56 * FONT_SIZE))  # a wide mean letter: lines must not reach the other block
    blocks = ["\n   ".join(textwrap.wrap(text, width, max_lines=CAPTION_LINES, placeholder=" …")) for text in captions]
    return "\n".join(f"•  {block}" for block in blocks)
