from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from protoclip.reports.samples import SampleRow, sample_sheet

COLUMNS = ("extract 0", "train 0", "extract 1")


def picture(seed: int, height: int = 6, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def row(
    number: int, caption: str = "a caption", groups: tuple[str, ...] = ("none: image", "light: image")
) -> SampleRow:
    views = {name: [picture(100 * number + 10 * place + i) for i in range(3)] for place, name in enumerate(groups)}
    return SampleRow(picture(1000 + number, 4, 8), caption, views)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is written."""
    written: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, path: Path, *, dpi: int) -> None:
        written.append(self)
        original(self, path, dpi=dpi)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return written


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_every_picture_is_shown_as_it_is(tmp_path: Path, saved: list[Figure]) -> None:
    rows = [row(1), row(2)]
    sample_sheet(tmp_path / "sheet.png", rows, title="flickr8k, seed 0", columns=COLUMNS)
    shown = [np.asarray(axis.images[0].get_array()) for axis in saved[0].axes]
    expected = [
        view for each in rows for view in (each.picture, *each.views["none: image"], *each.views["light: image"])
    ]
    assert len(shown) == len(expected) == 2 * 7
    for pixels, view in zip(shown, expected, strict=True):
        assert isinstance(view, Tensor)
        np.testing.assert_array_equal(pixels, view.permute(1, 2, 0).numpy())
    told = texts(saved[0])
    assert told.count("train 0") == 2
    assert {"flickr8k, seed 0", "as it is", "none: image", "light: image"} <= set(told)
    assert told.count("a caption") == 2


def test_photos_are_shown_too(tmp_path: Path, saved: list[Figure]) -> None:
    photo = Image.new("L", (5, 9), 7)
    sample_sheet(tmp_path / "sheet.png", [SampleRow(photo, "gray", {})], title="", columns=[])
    np.testing.assert_array_equal(np.asarray(saved[0].axes[0].images[0].get_array()), np.full((9, 5, 3), 7))


def test_long_captions_are_cut_after_two_lines(tmp_path: Path, saved: list[Figure]) -> None:
    long = "an endless caption for $5 and " * 40
    sample_sheet(tmp_path / "sheet.png", [row(1, long), row(2, "$short$")], title="", columns=COLUMNS)
    caption = next(text for text in texts(saved[0]) if text.startswith("an endless"))
    assert caption.count("\n") == 1
    assert caption.endswith(" …")
    assert "$short$" in texts(saved[0])


def test_further_lines_stand_beneath_the_caption(tmp_path: Path, saved: list[Figure]) -> None:
    each = replace(row(1), lines=["text: a red dog", "masked: " + "word " * 100])
    sample_sheet(tmp_path / "sheet.png", [each], title="", columns=COLUMNS)
    caption, *lines = next(text for text in texts(saved[0]) if text.startswith("a caption")).splitlines()
    assert caption == "a caption"
    assert lines[0] == "text: a red dog"
    assert lines[1].startswith("masked: word word")
    assert lines[-1].endswith(" …")
    assert len(lines) == 3


@pytest.mark.parametrize("columns", [COLUMNS[:1], COLUMNS])
def test_nothing_lies_upon_anything_or_outside(tmp_path: Path, saved: list[Figure], columns: tuple[str, ...]) -> None:
    groups = ("none: image", "simclr: momentum_crop")
    rows = [row(number, "w" * 30 + " word" * 100, groups) for number in (1, 2)]
    rows = [
        replace(each, views={g: v[: len(columns)] for g, v in each.views.items()}, lines=["text:" + " word" * 100] * 3)
        for each in rows
    ]
    sample_sheet(tmp_path / "sheet.png", rows, title="a corpus with a long name, 224 pixels, seed 123", columns=columns)
    canvas = FigureCanvasAgg(saved[0])
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    boxes = [text.get_window_extent(renderer) for text in saved[0].texts if text.get_text()]
    boxes += [axis.get_window_extent() for axis in saved[0].axes]
    width, height = canvas.get_width_height()
    for place, box in enumerate(boxes):
        assert 0 <= box.x0 <= box.x1 <= width
        assert 0 <= box.y0 <= box.y1 <= height
        overlaps = [other for other in boxes[:place] if min(box.x1, other.x1) - max(box.x0, other.x0) > 1]
        assert not [other for other in overlaps if min(box.y1, other.y1) - max(box.y0, other.y0) > 1]


def test_the_global_state_of_matplotlib_is_left_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    sample_sheet(tmp_path / "sheet.pdf", [row(1)], title="", columns=COLUMNS)
    assert dict(mpl.rcParams) == before
    assert (tmp_path / "sheet.pdf").read_bytes().startswith(b"%PDF")


def test_refuses_an_empty_sheet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        sample_sheet(tmp_path / "sheet.png", [], title="", columns=COLUMNS)
