"""Tables inside Markdown files, generated from rows.

A block begins with ``<!-- table: ROWS | COLUMN=TITLE, COLUMN=TITLE, ... -->``, or ``<!-- speed: ROWS -->`` for rows of
benchmarks, and ends with ``<!-- end of table -->``; what is between them is written by ``protoclip table FILE``, never
by hand.
"""

import re
from pathlib import Path

from protoclip.reports.rows import Row, read_rows
from protoclip.reports.speed import read_speed, speed_table
from protoclip.reports.tables import comparison_table, to_markdown

_BLOCK = re.compile(r"(<!-- table: (?P<rows>[^|]+?) \| (?P<columns>.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_SPEED = re.compile(r"(<!-- speed: (?P<rows>.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def render_blocks(text: str, folder: Path) -> str:
    """Fill every block of a Markdown text.

    Args:
        text: the Markdown.
        folder: where the paths of rows start.

    Raises:
        ValueError: rows that cannot be read, or a column that they do not have.
    """
    text = _BLOCK.sub(lambda match: _fill(match, folder), text)
    return _SPEED.sub(lambda match: _fill_speed(match, folder), text)


def _fill_speed(match: re.Match[str], folder: Path) -> str:
    return f"{match[1]}\n{speed_table(read_speed(_existing(folder / match['rows'])))}\n{match[3]}"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no rows at {path}: run what writes them")
    return path


def _fill(match: re.Match[str], folder: Path) -> str:
    rows = read_rows(_existing(folder / match["rows"]))
    titles = dict(column.strip().split("=", 1) for column in match["columns"].split(","))
    table = to_markdown(comparison_table(rows, list(titles)), titles)
    return f"{match[1]}\n{table}\n{_origin(rows, match['rows'])}\n{match[4]}"


def _origin(rows: list[Row], path: str) -> str:
    runs = sorted({row["run"] for row in rows})
    revisions = sorted({row["git"] for row in rows})
    return f"Rows: `{path}`; runs {', '.join(runs)}; revision {', '.join(revisions)}.\n"
