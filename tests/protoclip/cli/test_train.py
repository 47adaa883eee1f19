"""``protoclip-train`` in process: a run, the same command again, a sweep, and mistakes in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from protoclip.cli import train
from protoclip.cli.build import build_datamodule, find_run
from protoclip.cli.compose import compose_config
from protoclip.reports.rows import read_rows
from protoclip.runs import load
from tests.conftest import TINY, TINY_PROTOTYPES

TASKS = (
    "evaluation={every:2,monitor:null,validation:{pictures:{},tasks:{}},test:{pictures:{"
    "pairs:{_target_:datamodules.scenes.ScenePairs,split:retrieval,size:40,image_size:32},"
    "train:{_target_:datamodules.scenes.SceneObjects,split:train,size:128,image_size:32},"
    "objects:{_target_:datamodules.scenes.SceneObjects,split:test,size:64,image_size:32}},tasks:{"
    "scenes_zero_shot:{_target_:protoclip.evaluation.ZeroShot,pictures:objects},"
    "scenes_knn:{_target_:protoclip.evaluation.KNN,pictures:objects,train:train},"
    "scenes_retrieval:{_target_:protoclip.evaluation.Retrieval,pictures:pairs},"
    "scenes_pseudo_labels:{_target_:protoclip.evaluation.PseudoLabels,pictures:pairs}}}}"
)


def words(runs: Path, *more: str) -> list[str]:
    kept = [word for word in TINY if word != "evaluation=none"]
    return [*kept, *TINY_PROTOTYPES, "evaluation=none", f"++{TASKS}", f"runs={runs}", "run.episodes=2", *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert train(words(runs)) == 0
    (run,) = (runs / "protoclip-scenes").iterdir()
    return run


def test_a_run_leaves_its_results(finished: Path) -> None:
    rows = read_rows(finished / "rows.jsonl")
    assert {row["task"] for row in rows} == {
        "scenes_zero_shot", "scenes_knn", "scenes_retrieval", "scenes_pseudo_labels", "cost", "prototypes",
    }  # fmt: skip
    assert {row["run"] for row in rows} == {finished.name}
    assert {row["method"] for row in rows} == {"protoclip"}
    by_task = {row["task"]: row for row in rows}
    assert by_task["scenes_zero_shot"]["prompts"]
    assert by_task["scenes_zero_shot"]["counts"] == {"objects_pictures": 64, "classes": 64}
    assert by_task["cost"]["metrics"]["steps"] == 8
    assert (by_task["cost"]["metrics"]["relative_epoch"] or 0) > 1
    facts = json.loads((finished / "run.json").read_text())
    assert facts["hash"] == finished.name
    assert facts["manifest"] == rows[0]["data"]["fingerprint"]
    assert (finished / "DONE").exists()


def test_the_trainer_of_a_gpu_trains(tmp_path: Path) -> None:
    assert train(words(tmp_path, "trainer=gpu", "trainer.accelerator=cpu")) == 0
    (run,) = (tmp_path / "protoclip-scenes").iterdir()
    assert (run / "DONE").exists()


def test_a_finished_run_loads(finished: Path) -> None:
    module, settings = load(finished)
    assert settings["run"]["method"] == "protoclip"
    saved = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    assert not module.training


def test_the_same_command_again_does_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "rows.jsonl").stat().st_mtime_ns
    assert train(words(finished.parent.parent)) == 0
    assert "is finished" in capsys.readouterr().out
    assert (finished / "rows.jsonl").stat().st_mtime_ns == before


def test_an_unfinished_run_goes_on(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_rows(finished / "rows.jsonl")
    (finished / "DONE").unlink()
    assert train(words(finished.parent.parent)) == 0
    assert "going on" in capsys.readouterr().out
    again = read_rows(finished / "rows.jsonl")
    assert [row["metrics"] for row in again[:-1]] == [row["metrics"] for row in rows[:-1]]


def test_workers_and_places_do_not_change_the_directory(finished: Path, tmp_path: Path) -> None:
    config = compose_config(words(tmp_path, "num_workers=1"))
    assert find_run(config, build_datamodule(config)).path == tmp_path / "protoclip-scenes" / finished.name


def test_a_sweep_skips_what_is_finished_and_redoes_what_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (word for word in words(tmp_path) if "prototype" not in word and "run.episodes" not in word)
    sweep = ["-m", *kept, "run.episodes=1", "method=clip,protoclip"]
    assert train(sweep) == 0
    runs = sorted(tmp_path.glob("*-scenes/*"))
    assert sorted(run.parent.name for run in runs) == ["clip-scenes", "protoclip-scenes"]
    made = {run: (run / "rows.jsonl").stat().st_mtime_ns for run in runs}
    capsys.readouterr()
    assert train(sweep) == 0
    assert capsys.readouterr().out.count("is finished: nothing to do") == 2
    gone = runs[1]
    weights = torch.load(gone / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    shutil.rmtree(gone)
    assert train(sweep) == 0
    assert sorted(tmp_path.glob("*-scenes/*")) == runs
    assert [run for run in runs if (run / "rows.jsonl").stat().st_mtime_ns != made[run]] == [gone]
    again = torch.load(gone / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_sweep_of_several_devices_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["-m", *words(tmp_path, "trainer=ddp_sim", "seed=0,1")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # each job tells its own
    assert all("start each job by torchrun" in line for line in lines)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("prototype.num_prototypes=3", "either prototype.num_prototypes or"),
        ("+phases.prototype_warmup.weights.image_text=0", "phases.prototype_warmup.first_episodes=0"),
        ("~views.text_views.text", "text view 'text'"),
        ("run.epochs=2", "either run.episodes or run.epochs"),
        ("trainer.devices=3", "set batch_size to a multiple of 3"),
    ],
)
def test_mistakes_are_told_in_one_line(
    word: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(words(tmp_path, word)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_set_that_the_evaluation_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [word for word in TINY if word != "evaluation=none"]
    assert train([*kept, f"runs={tmp_path}", "evaluation=scenes_validation", "set=[scenes]"]) == 2
    assert "evaluation=scenes_validation has scenes already: leave it out of set=" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
