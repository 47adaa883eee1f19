"""A report as one HTML page that needs nothing else: styles and figures are inside, and there are no scripts."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from protoclip.reports.charts import Array
from protoclip.reports.main_metrics import MainColumn
from protoclip.reports.tables import Cell, Table, difference_text

DPI = 150
TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Shown:
    """A figure.

    Attributes:
        source: a data URI.
        alt: what it shows, for those who do not see it.
        caption: beneath it.
    """

    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Card:
    """One prototype of a gallery."""

    title: str
    note: str
    strip: Shown
    captions: Sequence[str]


@dataclass(frozen=True)
class Group:
    """Figures and cards of a section beneath a heading of their own, which may be empty."""

    title: str
    figures: Sequence[Shown] = ()
    cards: Sequence[Card] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        text: what is to be seen.
        groups: its figures; without any the section is what was left out.
        legend: what a colour of the figures means, and the colour.
        left_out: what could not be shown, each in a line that says why.
    """

    key: str
    title: str
    text: str = ""
    groups: Sequence[Group] = ()
    legend: Sequence[tuple[str, str]] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Facts:
    """Table of what is compared: a line an arm."""

    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the page.
        subtitle: what is compared, and when it was written.
        facts: of the arms.
        settings: in which the arms differ.
        table: the comparison.
        columns: of the table.
        sections: below it.
        warnings: what to know before figures of the table are compared, a line each.
    """

    title: str
    subtitle: str
    facts: Facts
    settings: Facts
    table: Table
    columns: Sequence[MainColumn]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()


def render(page: Page) -> str:
    """The HTML."""
    environment = Environment(
        loader=PackageLoader("protoclip.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(TEMPLATE)
    arms = [" ".join(line.key) for line in page.table.lines]
    seeds = [max((cell.count for cell in line.cells if cell), default=0) for line in page.table.lines]
    return template.render(page=page, arms=arms, seeds=seeds, kinds=_kinds(page.table, page.columns))


def _kinds(table: Table, columns: Sequence[MainColumn]) -> dict[str, list[tuple[str, list[dict[str, object] | None]]]]:
    """By the title of a kind its metrics: a label, and of each arm what its cell shows."""
    kinds: dict[str, list[tuple[str, list[dict[str, object] | None]]]] = {}
    for place, column in enumerate(columns):
        cells = [_shown_cell(line.cells[place], column.digits) for line in table.lines]
        kinds.setdefault(column.kind, []).append((column.label, cells))
    return kinds


def _shown_cell(cell: Cell | None, digits: int) -> dict[str, object] | None:
    if cell is None:
        return None
    return {
        "value": f"{cell.mean:z,.{digits}f}",
        "error": "" if cell.error is None else f"± {cell.error:.{digits}f}",
        "difference": "" if cell.difference is None else difference_text(cell.difference, digits, interval=True),
        "best": cell.best,
    }


def chart(figure: Figure, alt: str, caption: str = "") -> Shown:
    """A drawn figure as vectors."""
    with BytesIO() as buffer, mpl.rc_context({"svg.hashsalt": alt}):  # the same figure gives the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return Shown(_data_uri(buffer.getvalue(), "svg+xml"), alt, caption)


def bitmap(png: bytes, alt: str, caption: str = "") -> Shown:
    """A figure that is a PNG file."""
    return Shown(_data_uri(png, "png"), alt, caption)


def photograph(pixels: Array, alt: str) -> Shown:
    """Pixels [height, width, 3] as a JPEG file."""
    with BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
        return Shown(_data_uri(buffer.getvalue(), "jpeg"), alt)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
