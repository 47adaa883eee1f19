"""``protoclip compare`` on a tiny model: three arms, equal streams, one table, two figures."""

import io
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from protoclip.cli import main
from protoclip.cli.build import build_datamodule, find_run
from protoclip.cli.compare import compare
from protoclip.cli.compose import compose_config
from protoclip.reports.rows import read_rows
from tests.conftest import TINY
from tests.streams import streamed, write_corpus

ARMS = (
    "compare=scenes",
    "compare.columns=[scenes_knn/top1,cost/steps,cost/seconds,cost/relative_cost]",
    "compare.arms.protoclip.overrides=['method=protoclip','heads.prototype.hidden_dim=16','prototype.kmeans.redo=1']",
    "compare.seeds=[0,1]",
    "+compare.arms.clip_equal_cost.seeds=[1]",
    "compare.claims=[{claim: x, arm: protoclip, against: clip, column: scenes_knn/top1}]",
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
RUNS = [("CLIP", 0), ("CLIP", 1), ("ProtoCLIP", 0), ("ProtoCLIP", 1), ("CLIP at equal cost", 1)]


def words(runs: Path, *more: str) -> list[str]:
    return [*(word for word in TINY if word != "evaluation=none"), *SETS, *ARMS, f"runs={runs}", *more]


@dataclass(frozen=True)
class Compared:
    """A comparison, another process having written its first run for a while."""

    runs: Path
    folder: Path
    screen: str


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    runs, other = tmp_path_factory.mktemp("runs"), ExitStack()
    first = compose_config([*words(runs), "method=clip", "seed=0"])
    other.enter_context(find_run(first, build_datamodule(first)).lock())
    console = Console(file=io.StringIO(), record=True, width=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protoclip.cli.sweep.pause", other.close)
        folder = compare(words(runs), console=console)
    return Compared(runs, folder, console.export_text())


def test_rows_of_every_arm_and_seed(compared: Compared) -> None:
    rows = [row for row in read_rows(compared.folder / "rows.jsonl") if row["task"] == "cost"]
    assert [(row["arm"], row["seed"]) for row in rows] == RUNS


def test_a_run_of_another_process_is_put_back(compared: Compared) -> None:
    lines = compared.screen.splitlines()
    begun = [line.strip("─ ") for line in lines if line.startswith("─")]
    assert begun == [
        "CLIP, seed 0",
        "ProtoCLIP, seed 0",
        "CLIP, seed 1",
        "ProtoCLIP, seed 1",
        "CLIP, seed 0",
        "CLIP at equal cost, seed 1",
        "scenes",
    ]
    assert compared.screen.count("put back") == 1
    assert [line for line in lines if "waiting" in line] == ["waiting for the runs of other processes"]


def test_equal_cost_is_measured(compared: Compared) -> None:
    costs = [row for row in read_rows(compared.folder / "rows.jsonl") if row["task"] == "cost"]
    names = ("CLIP", "ProtoCLIP")
    seconds = {arm: sum(row["cost"]["seconds_per_episode"] for row in costs if row["arm"] == arm) for arm in names}
    episodes = {row["arm"]: row["cost"]["episodes"] for row in costs}
    assert episodes["CLIP"] == episodes["ProtoCLIP"] == 4
    assert episodes["CLIP at equal cost"] == max(1, round(4 * seconds["ProtoCLIP"] / seconds["CLIP"]))


def test_table_claims_and_figures_are_written(compared: Compared) -> None:
    lines = (compared.folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["CLIP", "ProtoCLIP", "CLIP at equal cost"]
    claims = (compared.folder / "claims.md").read_text(encoding="utf-8").splitlines()
    assert claims[2].startswith("| x | scenes_knn/top1 | 2 | ")
    assert claims[2].endswith("| not decidable here |")
    assert "not decidable here" in compared.screen
    for name in ("tsne.png", "prototypes.png"):
        with Image.open(compared.folder / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("L").getcolors(256) or []) > 20


def test_again_trains_nothing_and_arms_can_be_left_out(
    compared: Compared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoclip.cli.experiment.Experiment.fit", None)
    left_out = ("compare.name=pair", "~compare.arms.clip_equal_cost", "~compare.arms.protoclip")
    assert main(["compare", *words(compared.runs, *left_out)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("nothing to do") == 2
    assert "claims about arms that are not in compare.arms are left out" in shown
    folder = compared.runs / "compare" / "pair"
    assert {row["arm"] for row in read_rows(folder / "rows.jsonl")} == {"CLIP"}
    assert not (folder / "claims.md").exists()


def test_runs_of_several_processes_are_not_shared_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = words(tmp_path, "trainer=ddp_sim")
    first = compose_config([*several, "method=clip", "seed=0"])
    with find_run(first, build_datamodule(first)).lock():
        assert main(["compare", *several]) == 2
    assert "is being written by another process" in (told := capsys.readouterr().err)
    assert "trainer.devices=1" in told


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("+compare.arms.clip.cost_of=protoclip", "list that arm before this one"),
        ("~compare.arms.protoclip", "leave this one out by ~compare.arms.clip_equal_cost"),
        ("+compare.arms.clip.sede=[0]", "compare.arms.sede: there is no such option"),
        ("compare.arms.clip_equal_cost.overrides=['teacher=minilm']", "run protoclip teacher with the same words"),
        ("compare.claims=[{claim: x, arm: clip}]", "compare.claims.against: needs a value"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    word: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [word for word in words(tmp_path) if "arms.protoclip" not in word]
    assert main(["compare", *more, word]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_gallery_of_a_stream_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = streamed(write_corpus(tmp_path / "corpus"))
    assert main(["compare", *words(tmp_path / "runs", *stream)]) == 2
    assert "set compare.prototypes_of=null" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
