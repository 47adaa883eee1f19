"""A sheet of augmented samples: each picture as it is, and what the views make of it."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from protoclip.reports.figures import DPI, FONT_SIZE, Array, Picture

CELL = 1.0  # inches, as all lengths below
PADDING = 0.05
MARGIN = 0.25
GAP = 0.15
LINE = 0.15
HEADER = MARGIN + 4.5 * LINE
LETTER = 0.08  # of a heading
GREY = "#666666"
CAPTION_LINES = 2


@dataclass(frozen=True)
class SampleRow:
    """One pair of a sheet."""

    picture: Picture
    """As it is in the corpus."""
    caption: str
    views: Mapping[str, Sequence[Tensor]]
    """By the title of their group: uint8 [3, height, width], as many of a group in every row."""
    lines: Sequence[str] = ()
    """What else there is to say, beneath the caption."""


def sample_sheet(
    path: str | os.PathLike[str], rows: Sequence[SampleRow], *, title: str, columns: Sequence[str]
) -> None:
    """Write a page with one pair in a row: its picture, then its views by group, and its text beneath.

    Args:
        path: File to write.
        rows: In their order; all have the same groups, and a view for each column in every group.
        title: Of the page.
        columns: Headings of the views of a group.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("sample_sheet needs at least one row")
    group_width = max(CELL * len(columns), LETTER * max(map(len, rows[0].views), default=0)) + GAP
    starts = {name: MARGIN + CELL + GAP + group_width * place for place, name in enumerate(rows[0].views)}
    width = 2 * MARGIN + max(CELL + group_width * len(starts), 1.25 * LETTER * len(title))
    captions = ["\n".join(_wrapped(row, width - 2 * MARGIN)) for row in rows]
    heights = [CELL + LINE * (caption.count("\n") + 2) for caption in captions]
    page = _Page(width, HEADER + sum(heights) + MARGIN - LINE)
    page.write(MARGIN, MARGIN, title, fontsize=FONT_SIZE + 2, weight="bold")
    page.write(MARGIN, HEADER - LINE, "as it is", color=GREY)
    for name, start in starts.items():
        page.write(start, HEADER - 2.2 * LINE, name, weight="bold")
        for place, column in enumerate(columns):
            page.write(start + CELL * place, HEADER - LINE, column, color=GREY)
    top = HEADER
    for row, caption, height in zip(rows, captions, heights, strict=True):
        page.show(MARGIN, top, row.picture)
        for name, start in starts.items():
            for place, view in enumerate(row.views[name]):
                page.show(start + CELL * place, top, view)
        page.write(MARGIN, top + CELL, caption)
        top += height
    page.figure.savefig(path, dpi=DPI)


class _Page:
    """A figure that is filled by places in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def write(self, left: float, top: float, text: str, **style: Any) -> None:
        """Put text below and to the right of a place."""
        style.setdefault("fontsize", FONT_SIZE)
        x, y = left / self.width, 1 - top / self.height
        self.figure.text(x, y, text, va="top", linespacing=1.2, parse_math=False, **style)

    def show(self, left: float, top: float, picture: Picture) -> None:
        """Put a picture into a cell, whole and in its own shape."""
        side = CELL - PADDING
        place = (left / self.width, 1 - (top + side) / self.height, side / self.width, side / self.height)
        axis = self.figure.add_axes(place, anchor="NW")
        axis.imshow(_pixels(picture), interpolation="lanczos")
        axis.set_axis_off()


def _pixels(picture: Picture) -> Array:
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    pixels: Array = picture.permute(1, 2, 0).cpu().numpy()
    return pixels


def _wrapped(row: SampleRow, width: float) -> list[str]:
    """A row's text in lines of a width in inches, each of its parts cut after ``CAPTION_LINES`` of them."""
    letters = int(width * 72 / (0.62 * FONT_SIZE))
    parts = (row.caption, *row.lines)
    return [line for part in parts for line in textwrap.wrap(part, letters, max_lines=CAPTION_LINES, placeholder=" …")]
