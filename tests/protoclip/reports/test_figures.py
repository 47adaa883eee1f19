from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from protoclip.reports import figures, prototype_gallery, prototype_neighbours, tsne_figure
from protoclip.reports.figures import PrototypePanel


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is written."""
    written: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *args: Any, **kwargs: Any) -> None:
        written.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return written


def _blobs(classes: int, each: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(each)
    return 5 * torch.eye(classes)[labels] + torch.randn(len(labels), classes, generator=generator), labels


def _prototype(modality: str, images: int, captions: Sequence[str]) -> PrototypePanel:
    pictures = [
        Image.new("RGB", (20, 30), (255, 0, 0)) if i % 2 else torch.zeros(3, 9, 7, dtype=torch.uint8)
        for i in range(images)
    ]
    return {"modality": modality, "id": 3, "size": 12345, "images": pictures, "captions": captions}


def test_tsne_separates_what_is_separate() -> None:
    features, labels = _blobs(3, 20)
    embedding = figures._tsne(features, seed=0)
    distances = np.linalg.norm(embedding[:, None] - embedding[None], axis=-1) + 1e9 * np.eye(60)
    assert (labels.numpy()[distances.argmin(axis=1)] == labels.numpy()).mean() > 0.9
    lengths = 2.0 ** torch.randint(-3, 4, (60, 1), generator=torch.Generator().manual_seed(1))  # exact in floats
    np.testing.assert_array_equal(embedding, figures._tsne(lengths * features, seed=0))


def test_tsne_figure_shows_the_same_points_in_each_panel(
    tmp_path: Path, saved: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_tsne", lambda features, seed: features.numpy()[:, :2])
    features, labels = _blobs(4, 25)
    names = ["cat", "dog", "$5 bill_$", "ship"]
    panels = {"CLIP": (features, labels), "Proto": (features, labels)}
    tsne_figure(panels, tmp_path / "a.png", classnames=names, points=30)
    tsne_figure(panels, tmp_path / "b.png", classnames=names, points=30)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    first, second = saved[0].axes
    assert (first.get_title(), second.get_title()) == ("CLIP", "Proto")
    drawn = [np.concatenate([np.asarray(dots.get_offsets()) for dots in axis.collections]) for axis in (first, second)]
    assert len(drawn[0]) == 30
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert [text.get_text() for text in saved[0].legends[0].get_texts()] == names
    assert len(first.get_xticks()) == len(first.get_yticks()) == 0


def test_beyond_ten_labels_the_most_frequent_are_coloured(
    tmp_path: Path, saved: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_tsne", lambda features, seed: features.numpy()[:, :2])
    labels = torch.cat([torch.arange(14), torch.tensor([13, 12])])
    tsne_figure({"x": (torch.randn(16, 3), labels)}, tmp_path / "a.png")
    texts = [text.get_text() for text in saved[0].legends[0].get_texts()]
    assert texts == [*(str(label) for label in range(8)), "12", "13", "other"]
    named = figures.label_legend(labels.numpy())
    assert [name for name, _ in named] == texts
    assert [colour for _, colour in named] == [handle.get_color() for handle in saved[0].legends[0].get_lines()]
    tsne_figure({"x": (torch.randn(16, 3), labels)}, tmp_path / "b.png", legend=False)
    assert not saved[1].legends
    assert Image.open(tmp_path / "b.png").size[0] < Image.open(tmp_path / "a.png").size[0]
    grey = saved[0].axes[0].collections[0]
    assert len(np.asarray(grey.get_offsets())) == 4


def test_the_backend_and_settings_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_tsne", lambda features, seed: features.numpy()[:, :2])
    before = dict(mpl.rcParams)
    tsne_figure({"x": _blobs(2, 5)}, tmp_path / "a.png")
    assert dict(mpl.rcParams) == before


def test_tsne_mistakes_are_named(tmp_path: Path) -> None:
    features, labels = _blobs(3, 4)
    with pytest.raises(ValueError, match="at least one panel"):
        tsne_figure({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least 5 samples, got 4"):
        tsne_figure({"x": (features[:4], labels[:4])}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="panel 'y' has 12 features and 11 labels, the first panel 12"):
        tsne_figure({"x": (features, labels), "y": (features, labels[1:])}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="panel 'x' has a label outside the 2 classnames"):
        tsne_figure({"x": (features, labels)}, tmp_path / "a.png", classnames=["a", "b"])


def test_neighbours_by_hand() -> None:
    features = torch.tensor([[0.0], [5.0], [0.2], [4.0], [0.1], [0.2]])
    labels = torch.tensor([0, 2, 0, 2, 0, 0])
    centroids = torch.tensor(
        [[0.1], [0.0], [5.0]]
    )  # sample 0 and 2 are equally far from the first; the second is empty
    neighbours = prototype_neighbours(features.round(decimals=1), centroids, labels, 3)
    assert neighbours[0, 0] == 4
    assert sorted(neighbours[0, 1:].tolist()) in ([0, 2], [2, 5])
    assert neighbours[1:].tolist() == [[-1, -1, -1], [1, 3, -1]]


def test_neighbours_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    features, centroids = torch.randn(80, 4, generator=generator), torch.randn(7, 4, generator=generator)
    labels = torch.randint(0, 6, (80,), generator=generator)
    oracle = []
    for prototype in range(7):
        members = [index for index in range(80) if int(labels[index]) == prototype]
        members.sort(key=lambda index: float((features[index] - centroids[prototype]).norm()))
        oracle.append((members + [-1] * 20)[:20])
    assert prototype_neighbours(features, centroids, labels, 20).tolist() == oracle


def test_neighbour_mistakes_are_named() -> None:
    features, labels = torch.eye(3), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="are not of one space"):
        prototype_neighbours(features, torch.eye(2), labels, 1)
    with pytest.raises(ValueError, match="labels must lie in 0 to 2"):
        prototype_neighbours(features, features, labels + 2, 1)
    with pytest.raises(ValueError, match="labels has the shape"):
        prototype_neighbours(features, features, labels[1:], 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        prototype_neighbours(features, features, labels, 0)


def test_gallery_has_a_strip_and_captions_per_prototype(tmp_path: Path, saved: list[Figure]) -> None:
    path = tmp_path / "gallery.png"
    rows = [
        _prototype("image", 4, ["a dog", "word " * 200]),
        _prototype("text", 2, []),
        _prototype("image", 0, ["$5 and $6"]),
    ]
    prototype_gallery(path, rows)
    assert Image.open(path).size[0] > 1000
    figure = saved[0]
    assert len(figure.axes) == 3
    assert not any(text.get_parse_math() for text in figure.texts if text.get_text().startswith("•"))
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("image prototype 3") == 2
    assert texts.count("text prototype 3") == 1
    assert texts.count("12,345 samples") == 3
    captions = next(text for text in texts if text.startswith("•  a dog"))
    assert captions.count("\n") == 2
    assert captions.endswith("…")
    left, right, below = (axis.get_position() for axis in figure.axes if axis.get_position())
    boxes = sorted([left, right, below], key=lambda box: (box.x0, -box.y0))
    assert boxes[0].x0 == boxes[1].x0 < boxes[2].x0
    assert boxes[1].y1 < boxes[0].y0
    assert boxes[2].y0 == pytest.approx(boxes[0].y0)


def test_strip_puts_pictures_side_by_side() -> None:
    strip = figures.prototype_strip(_prototype("image", 2, [])["images"], length=3)
    side = figures.THUMBNAIL
    assert strip.shape == (side, 3 * side, 3)
    centres = [strip[side // 2, place * side + side // 2].tolist() for place in range(3)]
    assert centres == [[0, 0, 0], [255, 0, 0], [255, 255, 255]]


def test_gallery_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one prototype"):
        prototype_gallery(tmp_path / "a.png", [])
    with pytest.raises(ValueError, match="modality must be image or text, got 'audio'"):
        prototype_gallery(tmp_path / "a.png", [_prototype("audio", 1, [])])
