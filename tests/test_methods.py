"""The published methods: the terms of each, that each trains by the front door, and that their parts combine."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from protoclip.cli import train
from protoclip.cli.build import build_module
from protoclip.prototypes import PrototypeBank
from protoclip.reports.rows import read_rows
from protoclip.terms import Term
from protoclip.towers.leff import LeFF
from tests.conftest import TINY, TINY_METHODS, TINY_PROTOTYPES, Compose, composed
from tests.tiny import Batches, Built, build, tiny_config

SUPERVISION = {"image_text": 1, "image_ssl": 2, "mlm": 2, "multi_view": 3, "nearest_neighbour": 4, "tokens": 5}
"""What CLIP-benchmark's Figure 1 numbers: image-text, self-supervision, multi-view, nearest neighbours, tokens."""
FIGURE_1 = {"clip": {1}, "slip": {1, 2}, "filip": {5}, "declip": {1, 2, 3, 4}, "defilip": {1, 2, 3, 4, 5}}
PYRAMID = ["[global,summary]", "[local,text]", "[regions,summary]", "[regions,text]"]
AT_ONCE = "prototype.warmup_episodes=0"
PROTOTYPE = ("term=[prototype]", *TINY_PROTOTYPES, AT_ONCE)
VIT = ("towers=small_vit", "+towers.vision_cfg={width:16,layers:2,head_width:8,patch_size:16}", "towers.roi_blocks=1")


class Losses(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(float(outputs["loss"]))


def trained(config: DictConfig) -> tuple[Built, list[float]]:
    losses = Losses()
    return build(config).fit(losses), losses.values


def write_manifest(folder: Path, captions: int) -> Path:
    """Eight pictures, each with so many captions."""
    rows = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        texts = [f"picture number {number} in the words of {person}" for person in "abcde"[:captions]]
        rows.append(json.dumps({"filepath": f"{number}.png", "title": texts}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def on_manifest(method: str, path: Path, *words: str) -> list[str]:
    tiny = [word for word in TINY if not word.startswith("data.")]
    sizes = ["episode.size=8", "batch_size=4", "run.episodes=2"]
    options = [f"method={method}", "data=manifest", f"data.path={path}", f"runs={path.parent / 'runs'}"]
    return [*options, *tiny, *TINY_METHODS[method], *sizes, *words]


# What a method is made of ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", FIGURE_1)
def test_terms_are_those_of_figure_1(compose_tiny: Compose, method: str) -> None:
    terms = compose_tiny(method).terms
    assert {SUPERVISION[name] for name in terms} == FIGURE_1[method]
    assert ("mlm" in terms) == (method in {"declip", "defilip"})
    assert all(term.weight > 0 for term in terms.values())
    if "image_text" in terms:
        first = "masked" if "mlm" in terms else "text"
        assert OmegaConf.to_container(terms.image_text.pairs, resolve=True) == [["image", first]]


def test_terms_of_the_others(compose_tiny: Compose) -> None:
    assert list(compose_tiny("protoclip").terms) == ["image_text", "prototype"]
    (term,) = compose_tiny("pyramidclip").terms.values()
    assert f"{term.pairs}".replace("'", "").replace(" ", "") == f"[{','.join(PYRAMID)}]"
    assert term._target_ == "protoclip.terms.ImageText"


# That it trains -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", TINY_METHODS)
def test_a_fast_run_by_the_front_door(method: str, tmp_path: Path) -> None:
    words = [f"method={method}", "data=scenes", f"runs={tmp_path}", *TINY, *TINY_METHODS[method]]
    words += [AT_ONCE] if method == "protoclip" else []
    assert train([*words, "trainer.fast_dev_run=true"]) == 0
    (rows,) = tmp_path.glob(f"{method}-scenes/*/rows.jsonl")
    found = {row["task"]: row for row in read_rows(rows)}
    assert found["cost"]["method"] == method
    assert found["cost"]["metrics"]["steps"] == 1
    assert ("prototypes" in found) == (method == "protoclip")


@pytest.mark.parametrize("method", TINY_METHODS)
def test_the_loss_falls_in_20_steps(compose_tiny: Compose, method: str) -> None:
    words = ["data.num_pairs=32", "run.episodes=5", "optimizer.optimizer.lr=0.005", "optimizer.schedule.warmup=0"]
    words += [AT_ONCE] if method == "protoclip" else []
    _, losses = trained(compose_tiny(method, *words))
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])


def test_siglip_trains(compose_tiny: Compose) -> None:
    words = ("terms.image_text.loss=sigmoid", "temperatures.clip.bias=-2.0", "run.episodes=1")
    run, losses = trained(compose_tiny("clip", *words))
    bias = run.module.state_dict()["temperatures.clip.bias"]
    assert float(bias) != -2.0
    assert np.isfinite([*losses, float(bias)]).all()


@pytest.mark.parametrize(("pairs", "softening"), [(1, 0.2), (2, 0.0), (3, 0.0), (4, 0.2)])
def test_rows_of_pyramidclips_table_6(compose_tiny: Compose, pairs: int, softening: float) -> None:
    chosen = PYRAMID[:pairs]
    words = [f"terms.image_text.pairs=[{','.join(chosen)}]", f"terms.image_text.label_smoothing={softening}"]
    words += [] if pairs > 2 else ["towers.roi_dim=null"]
    run, losses = trained(compose_tiny("pyramidclip", *words, "run.episodes=1", "+trainer.max_steps=2"))
    assert len(losses) == 2
    read = {view for pair in chosen for view in pair.strip("[]").split(",")}
    assert run.datamodule.dataset.made == run.module.required_views.keys() == read
    (term,) = run.module.terms.values()
    assert isinstance(term, Term)
    assert len(term.required) == 2 * pairs
    assert term.label_smoothing == softening


@pytest.mark.parametrize("blocks", [0, 1])
def test_pyramidclip_with_and_without_leff(compose_tiny: Compose, blocks: int) -> None:
    words = (*VIT, f"towers.leff_blocks={blocks}", "run.episodes=1", "+trainer.max_steps=2")
    run, losses = trained(compose_tiny("pyramidclip", *words))
    assert sum(isinstance(part, LeFF) for part in run.module.modules()) == blocks
    assert len(losses) == 2


# That parts combine ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "words", "heads"),
    [
        ("protoclip", ("term=[tokens]", "heads.filip.out_dim=8", AT_ONCE), {"prototype", "filip"}),
        ("defilip", PROTOTYPE, {"simsiam", "mlm", "filip", "prototype"}),
    ],
    ids=["protoclip+tokens", "defilip+prototype"],
)
def test_a_method_with_another_ones_term(
    compose_tiny: Compose, method: str, words: tuple[str, ...], heads: set[str]
) -> None:
    config = compose_tiny(method, *words, "run.episodes=2")
    assert {*config.terms} == {*compose_tiny(method).terms} | {"tokens", "prototype"}
    run, _ = trained(config)
    logged = run.trainer.callback_metrics
    assert all(bool(logged[f"train/{name}_loss"] > 0) for name in config.terms)
    bank = run.module.banks["prototype"]
    assert isinstance(bank, PrototypeBank)
    assert int(bank.block) == 1  # of the second episode
    for side in (bank.image, bank.text):
        assert bool((side.labels >= 0).all())
        assert bool(side.prototypes.any())
    assert run.module.heads.keys() == heads
    assert run.module.temperatures.keys() == {"clip", "filip", "prototype"}


def test_terms_that_name_the_same_parts_share_them(compose_tiny: Compose) -> None:
    def parameters(*words: str) -> list[str]:
        return [name for name, _ in build_module(compose_tiny("defilip", *PROTOTYPE, *words)).named_parameters()]

    alone = parameters()
    again = "_target_:protoclip.terms.Prototype,head:prototype,bank:prototype,temperature:prototype"
    assert parameters(f"+terms.again={{{again},image:image_2,text:eda}}") == alone
    assert set(alone) - set(parameters("terms.tokens.temperature=clip")) == {"temperatures.filip.log_scale"}


def test_the_bank_is_of_the_clean_pair(compose_tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = []
    extraction = ImageTextDataModule.extraction_dataloader

    def kept(self: ImageTextDataModule, *arguments: Any) -> Any:
        loaders.append(extraction(self, *arguments))
        return loaders[-1]

    def bank(share: float, *words: str) -> dict[str, Tensor]:
        runs = tmp_path / f"{share}{len(words)}"
        masking = f"views.text_views.masked.share={share}"
        config = compose_tiny("defilip", *PROTOTYPE, "+trainer.max_steps=1", masking, *words, runs=runs)
        run, _ = trained(config)
        assert {"image_2", "masked", "eda"} < run.datamodule.dataset.made
        return run.module.banks["prototype"].state_dict()

    monkeypatch.setattr(ImageTextDataModule, "extraction_dataloader", kept)
    few, many = bank(0.15), bank(0.9)
    views = {"image", "image_2", "text", "masked", "masked_labels", "eda"}
    assert [views & next(iter(loader)).keys() for loader in loaders] == [{"image", "text"}] * 2
    assert few.keys() == many.keys()
    assert all(torch.equal(few[name], many[name]) for name in few)
    assert bool(few["image.prototypes"].any())
    masked = [bank(share, "terms.prototype.text=masked") for share in (0.15, 0.9)]
    assert not torch.equal(masked[0]["text.prototypes"], masked[1]["text.prototypes"])


def test_several_captions_of_a_picture_in_a_batch(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, captions=3)
    second = "views.text_views.text_2={_target_:datamodules.text_views.Caption,offset:1}"
    pairs = "terms.image_text.pairs=[[image,text],[image,text_2]]"
    seen = Batches()
    run = build(composed(*on_manifest("clip", path, f"+{second}", pairs))).fit(seen)
    assert run.trainer.global_step == len(seen.batches) == 4
    captions, tokenize = run.datamodule.train.captions, run.datamodule.tokenize
    ids = [tokenize(captions(number)) for number in range(8)]
    for batch in seen.batches:
        for index, drawn, *texts in zip(batch["index"], batch["caption"], batch["text"], batch["text_2"], strict=True):
            for offset, text in enumerate(texts):
                assert torch.equal(text, ids[int(index)][(int(drawn) + offset) % 3])


# What the data cannot give --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "words", "told"),
    [
        ("pyramidclip", (), "protoclip summarise"),
        ("pyramidclip", ("terms.image_text.pairs=[[local,text],[regions,text]]",), "protoclip regions"),
        ("declip", ("views.text_views.eda.wordnet=nowhere",), "nowhere has no index.noun"),
        ("slip", ("~views.image_views.ssl_2",), "the image view 'ssl_2'"),
    ],
)
def test_a_view_that_cannot_be_made_is_refused_at_the_start(
    method: str, words: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(on_manifest(method, write_manifest(tmp_path, captions=1), *words)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_accumulated_gradients_of_a_contrast_are_warned_of(tmp_path: Path) -> None:
    words = ("+trainer.accumulate_grad_batches=2", "run.episodes=1")
    with pytest.warns(
        UserWarning, match="image_text contrasts the rows of one batch: .* set batch_size .* micro_batch"
    ):
        build(tiny_config(tmp_path, "clip", *words)).fit()
