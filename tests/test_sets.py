"""The sets of the evaluation suite as config: which there are, what is measured on each, and a run on some of them."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from callbacks.evaluation import Evaluation
from datamodules.datamodule import ImageTextDataModule
from protoclip.cli.build import build_datamodule
from tests.conftest import TINY
from tests.datamodules.test_labelled_folders import write_classes
from tests.datamodules.test_labelled_sets import write_shards
from tests.tiny import Built, build, tiny_config

PROBED = {"cifar10", "cifar100", "dtd", "food101", "pets", "rendered_sst2", "cars", "stl10", "imagenet"}
CLUSTERED = {
    "imagenet",
    "cifar10",
    "cifar100",
    "stl10",
    "birdsnap",
    "country211",
    "flowers102",
    "gtsrb",
    "ucf101",
    "cars",
}
SIZES = {"imagenet": 50000, "dtd": 1880, "food101": 25250, "pets": 3669, "rendered_sst2": 1821, "birdsnap": 1855}
SIZES |= {"country211": 21100, "flowers102": 6149, "gtsrb": 12630, "ucf101": 11213, "cars": 8041, "stl10": 8000}
SIZES |= {"cifar10": 10000, "cifar100": 10000}
"""Pictures of the 14 test splits of the ProtoCLIP paper."""


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCLIP_SETS", str(tmp_path / "sets"))


def composed(*words: str) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides=["method=clip", *TINY, *words])


def test_the_papers_sets_and_what_is_measured_on_each() -> None:
    test: Any = composed("evaluation=protoclip_paper").evaluation.test
    tasks = {f"{name}_{task}" for name in SIZES for task in ("zero_shot", "token_zero_shot")} | {
        f"{name}_{task}" for name in PROBED for task in ("linear_probe", "knn")
    }
    assert {*test.tasks} == tasks | {f"{name}_clustering" for name in CLUSTERED} | {
        "coco_retrieval",
        "flickr30k_retrieval",
    }
    assert {*test.pictures} == {*SIZES, *(f"{name}_train" for name in PROBED), "coco", "flickr30k"}
    assert {name: test.pictures[name].expected for name in SIZES} == SIZES
    for name in SIZES:
        for task in ("zero_shot", "token_zero_shot"):
            assert test.tasks[f"{name}_{task}"].pictures == name
    for name in PROBED:
        for task in ("linear_probe", "knn"):
            fields = test.tasks[f"{name}_{task}"]
            assert (fields.pictures, fields.train) == (name, f"{name}_train")
    assert composed("set=[cifar10,dtd]").evaluation.test.pictures.keys() == {
        *("cifar10", "cifar10_train", "dtd", "dtd_train")
    }


def test_sets_that_are_missing_are_told_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = composed("evaluation=protoclip_paper", "set=[flickr8k,scenes]")
    write_shards(tmp_path / "sets" / "cifar10")
    with caplog.at_level(logging.WARNING):
        datamodule = build_datamodule(config)
    assert {*datamodule.test} == {"cifar10", "scenes", "objects", "objects_train"}
    assert {*datamodule.missing} == {*config.evaluation.test.pictures} - {*datamodule.test}
    told = [record.getMessage() for record in caplog.records if "missing" in record.getMessage()]
    assert len(told) == len({*SIZES, "coco", "flickr30k", "flickr8k"})
    assert [line for line in told if "dtd" in line] == [
        "missing and left out: dtd, dtd_train: put what torchvision's DTD reads, or folders test/CLASS/*.jpg, or "
        f"shards test/*.tar into {tmp_path}/sets/dtd, or set evaluation.root or PROTOCLIP_SETS"
    ]
    assert sum(line.startswith("missing and left out: cifar10_train:") for line in told) == 1


def measure(built: Built, *words: str) -> tuple[Evaluation, ImageTextDataModule]:
    """What a test of a model gives on other sets."""
    config = composed(*words)
    other = build(config)
    evaluation = next(callback for callback in other.callbacks if isinstance(callback, Evaluation))
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu", callbacks=[evaluation]
    )
    trainer.test(built.module, datamodule=other.datamodule, verbose=False)
    return evaluation, other.datamodule


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tiny_config(tmp_path_factory.mktemp("runs"), "clip"))


def test_two_lines_measure_a_set_of_ones_own(tmp_path: Path, model: Built) -> None:
    write_classes(tmp_path / "mine", cat=3, red_dog=2)
    (tmp_path / "table.csv").write_text("path,label\nmine/cat/0.png,cat\nmine/red_dog/0.png,dog\n")
    folders = f"_target_:datamodules.labelled_folders.ClassFolders,root:{tmp_path}/mine"
    table = f"_target_:datamodules.labelled_tables.LabelledTable,path:{tmp_path}/table.csv"
    evaluation, _ = measure(
        model,
        f"+evaluation.test.pictures.mine={{{folders}}}",
        "+evaluation.test.tasks.mine_zero_shot={_target_:protoclip.evaluation.ZeroShot,pictures:mine}",
        f"+evaluation.test.pictures.table={{{table}}}",
        "+evaluation.test.tasks.table_zero_shot={_target_:protoclip.evaluation.ZeroShot,pictures:table}",
    )
    counts = {name: result.counts for name, result in evaluation.results.items()}
    assert counts == {
        "mine_zero_shot": {"mine_pictures": 5, "classes": 2},
        "table_zero_shot": {"table_pictures": 2, "classes": 2},
    }
    assert evaluation.results["mine_zero_shot"].prompts is not None


def test_tasks_on_missing_sets_are_left_out(tmp_path: Path, model: Built) -> None:
    write_shards(tmp_path / "sets" / "dtd")
    evaluation, datamodule = measure(model, "set=[dtd,cifar10]")
    assert {*datamodule.missing} == {"dtd_train", "cifar10", "cifar10_train"}
    assert {name: result.counts for name, result in evaluation.results.items()} == {
        "dtd_zero_shot": {"dtd_pictures": 2, "classes": 2}
    }
