"""Tables inside Markdown files, generated from rows.

A block begins with one of these lines and ends with ``<!-- end of table -->``; what is between them is written by
``protoclip table FILE``, never by hand.

``<!-- table: ROWS | COLUMN=TITLE, COLUMN=TITLE, ... -->``: a comparison; ``| intervals`` after the columns gives
differences with their 95 % interval instead of their standard error.
``<!-- claims: ROWS | compare=NAME -->``: the claims of ``conf/compare/NAME.yaml`` and what the rows say of them.
``<!-- speed: ROWS -->``: rows of benchmarks.
"""

import re
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from protoclip.comparison import Comparison
from protoclip.instantiate import instantiate
from protoclip.reports.claims import claims_markdown, judge
from protoclip.reports.rows import Row, read_rows
from protoclip.reports.speed import read_speed, speed_table
from protoclip.reports.tables import comparison_table, to_markdown

_END = r" -->\n).*?(<!-- end of table -->)"
_TABLE = re.compile(
    r"(<!-- table: (?P<rows>[^|]+?) \| (?P<columns>[^|]+?)(?P<intervals> \| intervals)?" + _END, re.DOTALL
)
_CLAIMS = re.compile(r"(<!-- claims: (?P<rows>[^|]+?) \| compare=(?P<compare>\w+)" + _END, re.DOTALL)
_SPEED = re.compile(r"(<!-- speed: (?P<rows>.+?)" + _END, re.DOTALL)


def render_blocks(text: str, folder: Path) -> str:
    """Fill every block of a Markdown text.

    Args:
        text: the Markdown.
        folder: where the paths of rows start.

    Raises:
        ValueError: no block, rows that cannot be read, or a column that they do not have.
    """
    if not any(kind.search(text) for kind in (_TABLE, _CLAIMS, _SPEED)):
        raise ValueError(
            "there is no block to fill: write <!-- table: ROWS | COLUMN=TITLE --> and <!-- end of table -->"
        )
    text = _TABLE.sub(lambda match: _fill_table(match, folder), text)
    text = _CLAIMS.sub(lambda match: _fill_claims(match, folder), text)
    return _SPEED.sub(lambda match: _fill_speed(match, folder), text)


def _fill_speed(match: re.Match[str], folder: Path) -> str:
    return f"{match[1]}\n{speed_table(read_speed(_existing(folder / match['rows'])))}\n{match[3]}"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no rows at {path}: run what writes them")
    return path


def _fill_table(match: re.Match[str], folder: Path) -> str:
    rows = read_rows(_existing(folder / match["rows"]))
    titles = dict(column.strip().split("=", 1) for column in match["columns"].split(","))
    table = to_markdown(comparison_table(rows, list(titles)), titles, intervals=match["intervals"] is not None)
    return f"{match[1]}\n{table}\n{_origin(rows, match['rows'])}\n{match[5]}"


def _fill_claims(match: re.Match[str], folder: Path) -> str:
    rows = read_rows(_existing(folder / match["rows"]))
    comparison = _comparison(match["compare"])
    table = claims_markdown(judge(comparison.judged, rows, comparison.titles))
    return f"{match[1]}\n{table}\n{_origin(rows, match['rows'])}\n{match[4]}"


def _comparison(name: str) -> Comparison:
    try:
        with initialize_config_module("conf", version_base="1.3"):
            config = compose(f"compare/{name}")
    except MissingConfigException as error:
        raise ValueError(f"there is no conf/compare/{name}.yaml: name the comparison that wrote the rows") from error
    settings = OmegaConf.to_container(config, resolve=False)  # what the arms refer to is in other files
    assert isinstance(settings, dict)
    return instantiate(Comparison, settings["compare"], "compare")


def _origin(rows: list[Row], path: str) -> str:
    runs = sorted({row["run"] for row in rows})
    revisions = sorted({row["git"] for row in rows})
    return f"Rows: `{path}`; runs {', '.join(runs)}; revision {', '.join(revisions)}.\n"
