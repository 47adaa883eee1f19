"""Charts of a report: one function each, pure on arrays, wide enough for half a screen and legible on a phone.

Arms keep their colour through a page; the colours are those of Okabe and Ito, which the colour-blind tell apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from protoclip.reports.curves import Curve, mean_curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
"""Of arms, in order; the eighth has the first again."""
PHASE_COLOURS = ("#b3bcc5", *COLOURS[2:])
"""Of phases, none that the first arms have."""
WIDTH = 4.8  # inches
FONT_SIZE = 10.0
GREY = "#666666"
FAINT = "#dddddd"
ANNOTATED = 12
"""Largest number of classes whose shares are written into a confusion matrix."""

Array = NDArray[Any]


def colours_of(titles: Iterable[str]) -> dict[str, str]:
    """A colour for each title, in order."""
    return dict(zip(titles, cycle(COLOURS), strict=False))


def curve_chart(title: str, arms: Mapping[str, Sequence[Curve]], colours: Mapping[str, str]) -> Figure:
    """One figure of training over the episodes: each arm's mean, and its seeds faintly.

    Args:
        title: name of the figure.
        arms: by title the curves of its seeds.
        colours: of the arms.
    """
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axis = _axis(figure, title)
    for name, curves in arms.items():
        mean = mean_curve(curves)
        marker = "o" if len(mean.episodes) < 3 else ""
        for curve in curves if len(curves) > 1 else ():
            axis.plot(curve.episodes, curve.values, color=colours[name], linewidth=0.8, alpha=0.35)
        axis.plot(mean.episodes, mean.values, color=colours[name], linewidth=1.8, marker=marker, label=name)
    axis.set_xlabel("episode")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.grid(color=FAINT, linewidth=0.6)
    return figure


def similarity_chart(title: str, matched: Array, unmatched: Array, limits: tuple[float, float]) -> Figure:
    """Cosines of image-text pairs that belong together and of those that do not.

    Args:
        title: of the arm.
        matched: cosines.
        unmatched: cosines.
        limits: of the axis, the same for all arms.
    """
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axis = _axis(figure, title)
    edges = np.linspace(*limits, 61).tolist()
    for values, name, shade in ((unmatched, "unmatched", COLOURS[4]), (matched, "matched", COLOURS[0])):
        axis.hist(values, edges, density=True, color=shade, alpha=0.55, label=name)
        axis.axvline(float(values.mean()), color=shade, linestyle="--", linewidth=1.2)
    axis.set_xlim(*limits)
    axis.set_xlabel("cosine of image and text")
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.legend(frameon=False, fontsize=FONT_SIZE - 1)
    return figure


def confusion_chart(title: str, shares: Array, names: Sequence[str]) -> Figure:
    """A confusion matrix, or a part of one.

    Args:
        title: of the arm.
        shares: [true classes, predicted classes] in percent of a true class' samples.
        names: of the classes.
    """
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    places = range(len(names))
    shortened = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    size = FONT_SIZE - 1 if len(names) <= ANNOTATED else FONT_SIZE - 3
    axis.set_xticks(places, shortened, rotation=90, fontsize=size, parse_math=False)
    axis.set_yticks(places, shortened, fontsize=size, parse_math=False)
    axis.tick_params(length=0)
    axis.set_xlabel("predicted", fontsize=FONT_SIZE, color=GREY)
    axis.set_ylabel("true", fontsize=FONT_SIZE, color=GREY)
    axis.set_title(title, fontsize=FONT_SIZE + 1, parse_math=False)
    axis.spines[:].set_color(FAINT)
    if len(names) <= ANNOTATED:
        for row, column in np.argwhere(np.round(shares) > 0).tolist():
            share = shares[row, column]
            shade = "white" if share > 55 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", color=shade, fontsize=FONT_SIZE - 2)
    return figure


def most_confused(shares: Sequence[Array], number: int) -> list[int]:
    """The classes that are taken for each other most, over several matrices, those of a pair side by side.

    Args:
        shares: matrices [classes, classes], of the arms.
        number: of classes at most; where there are no more, all of them in their order.
    """
    classes = len(shares[0])
    if classes <= number:
        return list(range(classes))
    total = np.sum(shares, axis=0)
    pairs = np.triu(total + total.T, k=1)
    chosen: dict[int, None] = {}
    for place in np.argsort(-pairs, axis=None, kind="stable").tolist():
        pair = {each for each in divmod(place, classes) if each not in chosen}
        if len(chosen) + len(pair) <= number:
            chosen |= dict.fromkeys(sorted(pair))
        if len(chosen) == number:
            break
    return list(chosen)


def cost_chart(phases: Mapping[str, Mapping[str, float]], notes: Mapping[str, str]) -> Figure:
    """Seconds of each phase of the training, stacked, an arm a bar.

    Args:
        phases: by the title of an arm its seconds by phase.
        notes: by the title of an arm what is written behind its bar.
    """
    names = list(dict.fromkeys(name for of_arm in phases.values() for name in of_arm))
    names = [name for name in names if any(of_arm.get(name, 0.0) > 0 for of_arm in phases.values())]
    names.sort(key="training".__ne__)  # first: bars are compared from where they begin
    figure = Figure(figsize=(WIDTH, 1.5 + 0.42 * len(phases)), layout="constrained")
    axis = _axis(figure, "")
    places = np.arange(len(phases))
    left = np.zeros(len(phases))
    for name, shade in zip(names, cycle(PHASE_COLOURS), strict=False):
        widths = np.array([of_arm.get(name, 0.0) for of_arm in phases.values()])
        axis.barh(places, widths, left=left, height=0.62, color=shade, label=name.replace("_", " "))
        left += widths
    for place, (title, end) in enumerate(zip(phases, left.tolist(), strict=True)):
        axis.text(end, place, f"  {notes[title]}", va="center", fontsize=FONT_SIZE - 1, color=GREY)
    axis.set_yticks(places, list(phases), parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.45 * float(left.max()))
    axis.set_xlabel("seconds of training")
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=min(3, len(names)), frameon=False, fontsize=FONT_SIZE - 1)
    return figure


def _axis(figure: Figure, title: str) -> Axes:
    axis: Axes = figure.subplots()
    axis.set_title(title, fontsize=FONT_SIZE + 1, parse_math=False)
    axis.tick_params(labelsize=FONT_SIZE - 1)
    axis.xaxis.label.set_fontsize(FONT_SIZE)
    axis.spines[["top", "right"]].set_visible(False)
    return axis
