"""``protoclip compare`` on a tiny model: three arms, equal streams, one table, two figures."""

from pathlib import Path

import pytest
from PIL import Image

from protoclip.cli import main
from protoclip.reports.rows import read_rows
from tests.conftest import TINY

ARMS = (
    "compare=scenes",
    "compare.columns=[scenes_knn/top1,cost/steps,cost/seconds]",
    "compare.arms.ProtoCLIP.overrides=['method=protoclip','heads.prototype.hidden_dim=16','prototype.kmeans.redo=1']",
)
SETS = (
    "evaluation=scenes",
    "evaluation.validation={pictures:{},tasks:{}}",
    "evaluation.monitor=null",
    "evaluation.test.pictures.scenes.size=40",
    "evaluation.test.pictures.objects.size=64",
    "evaluation.test.pictures.objects_train.size=128",
    "~evaluation.test.tasks.scenes_linear_probe",
)


def words(runs: Path, *more: str) -> list[str]:
    return ["compare", *(word for word in TINY if word != "evaluation=none"), *SETS, *ARMS, f"runs={runs}", *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(words(runs, "compare.seeds=[0,1]")) == 0
    return runs / "compare" / "scenes"


def test_rows_of_every_arm_and_seed(folder: Path) -> None:
    rows = [row for row in read_rows(folder / "rows.jsonl") if row["task"] == "cost"]
    assert [(row["arm"], row["seed"]) for row in rows] == [
        (arm, seed) for arm in ("CLIP", "ProtoCLIP", "CLIP at equal cost") for seed in (0, 1)
    ]


def test_equal_cost_is_measured(folder: Path) -> None:
    costs = [row for row in read_rows(folder / "rows.jsonl") if row["task"] == "cost"]
    names = ("CLIP", "ProtoCLIP")
    seconds = {arm: sum(row["cost"]["seconds_per_episode"] for row in costs if row["arm"] == arm) for arm in names}
    episodes = {row["arm"]: row["cost"]["episodes"] for row in costs}
    assert episodes["CLIP"] == episodes["ProtoCLIP"] == 4
    assert episodes["CLIP at equal cost"] == max(1, round(4 * seconds["ProtoCLIP"] / seconds["CLIP"]))


def test_table_and_figures_are_written(folder: Path) -> None:
    lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["CLIP", "ProtoCLIP", "CLIP at equal cost"]
    for name in ("tsne.png", "prototypes.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("L").getcolors(256) or []) > 20


def test_an_arm_cannot_take_the_cost_of_a_later_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "+compare.arms.CLIP.cost_of=ProtoCLIP")) == 2
    assert "list that arm before this one" in capsys.readouterr().err
