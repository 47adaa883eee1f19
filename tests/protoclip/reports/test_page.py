import base64
from collections.abc import Sequence
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from protoclip.reports.main_metrics import main_columns
from protoclip.reports.page import Card, Facts, Group, Page, Section, bitmap, chart, photograph, render
from protoclip.reports.rows import Row
from protoclip.reports.tables import comparison_table
from tests.pages import Parsed, parse
from tests.protoclip.reports.test_main_metrics import row

ODD = "<b>$a_1$ & 'co'</b>"


def of_seed(made: Row, seed: int) -> Row:
    return {**made, "seed": seed, "run": f"{made['run']}{seed}"}


ROWS = [
    *(of_seed(row("CLIP", "x_zero_shot", top1=10.0 + seed), seed) for seed in (0, 1)),
    *(of_seed(row(ODD, "x_zero_shot", top1=12.0 + 3 * seed), seed) for seed in (0, 1)),
    of_seed(row(ODD, "x_knn", top1=50.0), 0),
    *(of_seed(row(name, "cost", steps=2160.0), 0) for name in ("CLIP", ODD)),
]


def drawn() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return figure


def page(rows: Sequence[Row] = ROWS) -> Page:
    columns = main_columns(rows)
    card = Card(ODD, "9 samples", photograph(np.zeros((4, 8, 3), dtype=np.uint8), "strip"), ["first", ODD])
    return Page(
        title=ODD,
        subtitle="2 runs",
        facts=Facts(("arm", "runs"), [("CLIP", "abc"), (ODD, "def")]),
        settings=Facts(("setting", "CLIP", ODD), [("model.lr", "1", "2")]),
        table=comparison_table(rows, [column.name for column in columns]),
        columns=columns,
        sections=[
            Section(
                "curves", "Curves", "what is seen", [Group("", [chart(drawn(), "loss", "lower")])], [("CLIP", "#f00")]
            ),
            Section("prototypes", "Prototypes", "not told", left_out=["Left out: nobody has any."]),
            Section("gallery", "Gallery", "", [Group(ODD, cards=[card])]),
        ],
    )


@pytest.fixture(scope="module")
def parsed() -> Parsed:
    return parse(render(page()))


def test_tags_are_balanced_and_nothing_is_fetched(parsed: Parsed) -> None:
    assert not parsed.unclosed
    assert parsed.ids == ["results", "curves", "prototypes", "gallery"]
    assert parsed.links == [f"#{name}" for name in parsed.ids]
    assert "script" not in parsed.tags
    assert not parsed.fetched


def test_texts_are_escaped(parsed: Parsed) -> None:
    assert parsed.texts["h1"] == [ODD]
    assert parsed.texts["h3"] == [ODD]
    assert parsed.texts["li"] == ["CLIP", "first", ODD]


def test_cells_tell_mean_difference_and_best(parsed: Parsed) -> None:
    facts, settings, results = parsed.tables
    assert facts[2] == [ODD, "def"]
    assert settings[1] == ["model.lr", "1", "2"]
    assert results == [
        ["", "CLIP", ODD],
        ["zero-shot classification"],
        ["x top1", "10.50 ± 0.50", "13.50 ± 1.50 +3.00 [-9.71, 15.71]"],
        ["k-nearest neighbours"],
        ["x top1", "-", "50.00"],
        ["cost of training"],
        ["steps", "2,160", "2,160 +0"],
        ["seeds", "2", "2"],
    ]
    assert parsed.best == ["13.50 ± 1.50 +3.00 [-9.71, 15.71]"]


def test_what_is_left_out_says_why_and_nothing_else(parsed: Parsed) -> None:
    shown = " ".join(parsed.texts["p"])
    assert "what is seen" in shown
    assert "not told" not in shown
    assert "Left out: nobody has any." in shown


def test_figures_are_inside(parsed: Parsed) -> None:
    kinds = [(image.kind, image.alt) for image in parsed.images]
    assert kinds == [("image/svg+xml", "loss"), ("image/jpeg", "strip")]
    assert parsed.texts["figcaption"] == ["lower"]
    assert b"<svg" in parsed.images[0].content
    with Image.open(BytesIO(parsed.images[1].content)) as strip:
        assert strip.size == (8, 4)


def test_one_arm_of_one_seed_is_compared_with_nothing() -> None:
    alone = parse(render(page([of_seed(row("CLIP", "x_zero_shot", top1=10.0), 0)])))
    assert alone.tables[2][2] == ["x top1", "10.00"]
    assert not alone.best
    assert "difference" not in " ".join(alone.texts["p"])


def test_the_same_figure_gives_the_same_bytes_and_settings_stay() -> None:
    before = dict(mpl.rcParams)
    assert chart(drawn(), "a") == chart(drawn(), "a")
    assert dict(mpl.rcParams) == before
    source = bitmap(b"png", "a").source
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == b"png"
