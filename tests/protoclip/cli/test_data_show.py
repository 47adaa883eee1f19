from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from datamodules.scenes import ScenePairs
from datamodules.views import to_pixels
from protoclip.cli import data_show, main
from protoclip.cli.build import build_datamodule
from protoclip.cli.compose import compose_config
from protoclip.reports.samples import SampleRow
from protoclip.tokenizer import Tokenizer
from tests.datamodules.test_wordnet import write_wordnet

TINY = (
    "data.num_pairs=64",
    "episode.size=16",
    "batch_size=4",
    "towers.image_size=32",
    "evaluation=none",
    "logger=none",
)


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be drawn."""
    drawn: list[dict[str, Any]] = []

    def draw(path: Path, rows: Sequence[SampleRow], **options: Any) -> None:
        drawn.append({"rows": rows, **options})

    monkeypatch.setattr(data_show, "sample_sheet", draw)
    return drawn


def passes(datamodule: ImageTextDataModule, view: str = "image") -> dict[str, Tensor]:
    """What a run's two passes over episode 0 see, by position."""
    extracted = torch.cat([batch[view] for batch in datamodule.extraction_dataloader(0)])
    batches = list(datamodule.train_dataloader())
    order = torch.cat([batch["position"] for batch in batches]).argsort()
    return {"extract 0": extracted, "train 0": torch.cat([batch[view] for batch in batches])[order]}


def test_shows_what_a_run_sees(tmp_path: Path, sheets: list[dict[str, Any]]) -> None:
    words = [*TINY, "seed=3", "+datamodule.mean=[0.4,0.5,0.6]", "+datamodule.std=[0.2,0.3,0.4]"]
    data_show.show_pairs([*words, "views=none,light"], tmp_path / "sheet.png", pairs=3, draws=4)
    (sheet,) = sheets
    assert sheet["title"] == "scenes, 32 pixels, seed 3"
    assert sheet["columns"] == ["extract 0", "train 0", "extract 1", "train 1"]
    assert [list(row.views) for row in sheet["rows"]] == 3 * [["none: image", "light: image"]]
    for name in ("none", "light"):
        datamodule = build_datamodule(compose_config([*words, f"views={name}"]))
        seen = passes(datamodule)
        for position, row in enumerate(sheet["rows"]):
            shown = row.views[f"{name}: image"]
            assert len(shown) == 4
            for column, pixels in zip(sheet["columns"], shown[:2], strict=False):
                expected = to_pixels(seen[column][position], mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
                assert torch.equal(pixels, expected)
            assert len({pixels.numpy().tobytes() for pixels in shown}) == 4
            index = int(datamodule.plan.indices(0)[position])
            picture = datamodule.train.image(index)
            assert isinstance(picture, Tensor)
            assert torch.equal(row.picture, picture)
            number, caption = row.caption.split(": ", 1)
            assert int(number) == index
            assert caption in datamodule.train.captions(index)


def test_texts_and_regions_are_told(tmp_path: Path, sheets: list[dict[str, Any]]) -> None:
    target = "_target_: datamodules"
    words = (
        f"+views.text_views.masked={{{target}.text_views.Masked, of: text, share: 0.5, mask: 1.0, random: 0.0}}",
        f"+views.text_views.eda={{{target}.eda.EDA, wordnet: {write_wordnet(tmp_path / 'wordnet')}}}",
        f"+views.region_views.regions={{{target}.region_view.Regions}}",
    )
    data_show.show_pairs([*TINY, *words], tmp_path / "sheet.png", pairs=8, draws=2)
    datamodule = build_datamodule(compose_config([*TINY, *words]))
    seen = {view: passes(datamodule, view) for view in ("text", "masked", "eda")}
    assert isinstance(datamodule.tokenize, Tokenizer)
    assert isinstance(datamodule.train, ScenePairs)
    read = datamodule.tokenize.decode
    for position, row in enumerate(sheets[0]["rows"]):
        draws = {view: [read(seen[view][name][position]) for name in ("extract 0", "train 0")] for view in seen}
        expected = [f"{view}: {text}" for view in seen for text in dict.fromkeys(draws[view])]
        boxes = len(datamodule.train.regions(int(datamodule.plan.indices(0)[position])))
        assert row.lines == [*expected, f"regions: {boxes} boxes"]
        assert len(set(draws["text"])) == 1
        assert all("<mask>" in text for text in draws["masked"])
    changed = [line for row in sheets[0]["rows"] for line in row.lines if line.startswith("eda")]
    assert len(changed) > 8


def test_without_a_choice_the_views_of_the_config(tmp_path: Path, sheets: list[dict[str, Any]]) -> None:
    data_show.show_pairs(TINY, tmp_path / "sheet.png", pairs=99, draws=1)
    data_show.show_pairs(
        [*TINY, "+views.image_views.second=${views.image_views.image}"], tmp_path / "sheet.png", pairs=1
    )
    assert [len(sheet["rows"]) for sheet in sheets] == [16, 1]
    assert [list(sheet["rows"][0].views) for sheet in sheets] == [["crop: image"], ["crop: image", "crop: second"]]


def test_the_command_writes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "sheet.png"
    assert main(["data", "show", *TINY, "views=simclr", "--out", str(path), "--pairs", "2", "--draws", "2"]) == 0
    assert "sheet.png" in capsys.readouterr().out
    with Image.open(path) as sheet:
        assert min(sheet.size) > 200
    assert main(["data", "show", "--out", str(path), "--pairs", "1", "--draws", "2", *TINY]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("views=lihgt",), "views=lihgt: there is crop, light, moco, none, published, simclr: did you mean 'light'?"),
        (("views=light", "towers.image_size=8"), "or towers.image_size to 11 or more"),
        (("+views.text_views.eda={_target_: datamodules.eda.EDA, wordnet: no}",), "no has no index.noun: install it"),
        (("--pairs", "0"), "set --pairs and --draws to 1 or more"),
        (("--out", "sheet.txt"), "end --out in .png, .pdf or .svg"),
        (("--pair", "3"), "--pair 3 (see protoclip --help)"),
        (("data=manifest", "data.path=absent.tsv"), "absent.tsv"),
    ],
)
def test_mistakes_in_one_line(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", *(word for word in TINY if "num_pairs" not in word), *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_corpus_smaller_than_an_episode(tmp_path: Path, sheets: list[dict[str, Any]]) -> None:
    words = ["data.num_pairs=5", "episode.size=16", "batch_size=8", "views=none", "towers.image_size=32"]
    assert main(["data", "show", *words, "--out", str(tmp_path / "sheet.png")]) == 0
    (sheet,) = sheets
    assert len(sheet["rows"]) == 5
