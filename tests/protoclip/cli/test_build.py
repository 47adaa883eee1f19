"""A method and the views that it reads, before anything is trained."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn

from datamodules.scenes.corpora import feature_size
from protoclip.cli.build import build_datamodule, build_module, check_views
from protoclip.cli.main import main
from protoclip.tokenizer import Tokenizer
from tests.conftest import TINY, Compose
from tests.datamodules.test_wordnet import write_wordnet
from tests.tiny import Batches, build

ROI_DIM = feature_size() + 4
MASKED = "+views.text_views.masked={_target_: datamodules.text_views.Masked, of: text}"
EDA = "+views.text_views.eda={_target_: datamodules.eda.EDA, of: text, wordnet: %s}"
SUMMARY = "+views.text_views.summary={_target_: datamodules.text_views.Summary}"
REGIONS = "+views.region_views.regions={_target_: datamodules.region_view.Regions}"
SECOND = "+view@views.image_views.ssl_1=slip"
PAIRS = "terms.image_text.pairs=[%s]"


@pytest.fixture
def clip(compose_tiny: Compose) -> Callable[..., DictConfig]:
    """A config of CLIP of these pairs of views."""
    return lambda pairs, *words: compose_tiny("clip", PAIRS % pairs, *words)


def refuses(config: DictConfig, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        check_views(build_module(config), build_datamodule(config))
    assert "\n" not in str(error.value)


def test_a_run_makes_the_views_that_its_terms_read_and_no_others(
    clip: Callable[..., DictConfig], tmp_path: Path
) -> None:
    wordnet = write_wordnet(tmp_path / "wordnet")
    words = (MASKED, EDA % wordnet, SUMMARY, REGIONS, SECOND, "++towers.mask_token=true", "towers.image_size=32")
    config = clip("[image,masked],[ssl_1,eda],[image,summary]", *words, "run.episodes=1")
    built, seen = build(config), Batches()
    built.fit(seen)
    views = {"image", "ssl_1", "masked", "masked_labels", "eda", "summary"}
    facts = {"index", "replaced", "position", "episode", "block", "label", "caption"}
    assert set(seen.batches[0]) == facts | views
    labels = torch.cat([batch["masked_labels"] for batch in seen.batches])
    ids = torch.cat([batch["masked"] for batch in seen.batches])
    assert ((labels >= 0).sum(1) >= 1).all()
    assert (ids == 49408).any()


def test_views_that_nobody_reads_are_not_made_and_may_be_impossible(clip: Callable[..., DictConfig]) -> None:
    config = clip("[image,text]", MASKED, EDA % "/nowhere", REGIONS, "run.episodes=1")
    built, seen = build(config), Batches()
    check_views(built.module, built.datamodule)
    built.fit(seen)
    assert {"image", "text"} <= set(seen.batches[0])
    assert not {"masked", "masked_labels", "eda", "regions"} & set(seen.batches[0])


def test_lightning_alone_refuses_before_training(clip: Callable[..., DictConfig]) -> None:
    config = clip("[image,eda]", EDA % "/nowhere")
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=1)
    with pytest.raises(ValueError, match=r"/nowhere has no index\.noun: install it"):
        trainer.fit(build_module(config), datamodule=build_datamodule(config))


@pytest.mark.parametrize(
    ("pairs", "word", "told"),
    [
        ("[image,other]", MASKED, "the text view 'other', and views makes masked, text: choose other views"),
        ("[masked,text]", MASKED, "the image view 'masked', and views makes image: choose other views"),
        ("[image,eda]", EDA % "/nowhere", "/nowhere has no index.noun: install it (on Debian: apt-get install"),
        ("[image,masked]", MASKED, "the text view 'masked' has mask tokens: set towers.mask_token=true"),
        (
            "[regions,text]",
            REGIONS,
            f"'regions' has {ROI_DIM} numbers for a box: set towers.roi_dim={ROI_DIM}",
        ),
    ],
)
def test_mistakes(clip: Callable[..., DictConfig], pairs: str, word: str, told: str) -> None:
    refuses(clip(pairs, word), told)


@pytest.mark.parametrize(
    ("pairs", "word", "command"), [("[image,summary]", SUMMARY, "summarise"), ("[regions,text]", REGIONS, "regions")]
)
def test_a_corpus_without_summaries_or_regions(
    clip: Callable[..., DictConfig], pairs: str, word: str, command: str
) -> None:
    photos = ("~data.train", "+data.train={_target_: tests.datamodules.test_datasets.Photos, counts: [1, 1]}")
    refuses(clip(pairs, word, *photos, "episode.size=2", "batch_size=2"), f"write them by protoclip {command}")


def test_labels_come_of_a_masked_view(clip: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = clip("[image,text]", MASKED)
    module = build_module(config)
    monkeypatch.setattr(type(module.terms["image_text"]), "targets", ("text_labels",))
    with pytest.raises(ValueError, match="term image_text reads text_labels, which a masked text view makes"):
        check_views(module, build_datamodule(config))


def test_rows_beside_a_corpus_without_any(clip: Callable[..., DictConfig]) -> None:
    photos = "+data.train={_target_: tests.datamodules.test_datasets.Photos, counts: [1, 1]}"
    summary = SUMMARY.replace("Summary", "Summary, rows: {_target_: tests.datamodules.test_text_views.Rows}")
    regions = REGIONS.replace("Regions", "Regions, rows: {_target_: tests.datamodules.test_region_view.Rows}")
    words = (summary, regions, "~data.train", photos, "episode.size=2", "batch_size=2")
    datamodule = build_datamodule(clip("[image,summary]", *words))
    assert isinstance(datamodule.tokenize, Tokenizer)
    datamodule.require({"regions": "image", "summary": "text"})
    (batch,) = datamodule.extraction_dataloader(0)
    assert batch["regions"].shape == (2, 10, 3)
    assert [datamodule.tokenize.decode(ids) for ids in batch["summary"]] == [f"row {i}" for i in batch["index"]]


@pytest.mark.parametrize("width", [ROI_DIM, 7])
def test_towers_read_regions_of_their_width(clip: Callable[..., DictConfig], width: int) -> None:
    config = clip("[regions,text]", REGIONS)
    module, datamodule = build_module(config), build_datamodule(config)
    module.towers.image.regions = nn.Module()
    module.towers.image.regions.projection = nn.Linear(width, 4)
    with nullcontext() if width == ROI_DIM else pytest.raises(ValueError, match=rf"set towers\.roi_dim={ROI_DIM}"):
        check_views(module, datamodule)


def test_the_command_tells_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "method=clip", f"runs={tmp_path}", *TINY, PAIRS % "[image,eda]", EDA % "/nowhere"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "/nowhere has no index.noun" in error
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]
