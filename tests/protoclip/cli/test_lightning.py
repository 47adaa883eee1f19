"""``protoclip fit|validate|test|predict`` in process, beside ``protoclip-train`` on the same words."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules.scenes import SceneObjects
from protoclip.cli import main, train
from protoclip.reports.rows import read_rows
from protoclip.runs import Run, features, load
from tests.protoclip.cli.test_train import words

Finished = tuple[Path, list[str]]


def last(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = last(one), last(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    runs = tmp_path_factory.mktemp("runs")
    chosen = [*(word for word in words(runs) if word != "logger=none"), "trainer.log_every_n_steps=1"]
    assert train(chosen) == 0
    (run,) = (runs / "protoclip-scenes").iterdir()
    return run, chosen


def test_the_file_of_a_run_repeats_it_digit_for_digit(finished: Finished, tmp_path: Path) -> None:
    run, _ = finished
    file, again = str(run / "lightning.yaml"), tmp_path / "again"
    assert main(["fit", "--config", file, "--run_dir", str(again)]) == 0
    assert not (again / "DONE").exists()
    assert main(["test", "--config", file, "--run_dir", str(again)]) == 0
    assert_same_weights(run, again)
    assert (run / "metrics.csv").read_bytes() == (again / "metrics.csv").read_bytes()
    assert [row["metrics"] for row in read_rows(again / "rows.jsonl") if row["task"] != "cost"] == [
        row["metrics"] for row in read_rows(run / "rows.jsonl") if row["task"] != "cost"
    ]
    assert (again / "DONE").exists()
    assert load(again)[1]["run"] == load(run)[1]["run"]


def test_words_lead_to_the_same_directory_as_the_other_door(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    run, chosen = finished
    assert main(["fit", *chosen, "--data.num_workers", "1"]) == 0
    assert f"{run} is finished" in capsys.readouterr().out.replace("\n", "")


def test_flags_decide_the_directory_and_the_run(finished: Finished, tmp_path: Path) -> None:
    _, chosen = finished
    longer, other = [*chosen, f"runs={tmp_path}"], [*chosen, f"runs={tmp_path}", "optimizer.weight_decay=0.3"]
    assert main(["fit", *longer, "--trainer.max_epochs", "1", "--model.weight_decay=0.3"]) == 0
    assert main(["fit", *other, "--trainer.max_epochs=1"]) == 0
    one, two = sorted((tmp_path / "protoclip-scenes").iterdir(), key=lambda path: path.stat().st_mtime)
    assert_same_weights(one, two)
    assert Run(one, one.name).finished_episodes == 1
    assert yaml.safe_load((one / "lightning.yaml").read_text())["model"]["weight_decay"] == 0.3


def test_a_stage_without_training_takes_the_last_checkpoint(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    run, chosen = finished
    before = [row["metrics"] for row in read_rows(run / "rows.jsonl")]
    assert main(["test", *chosen]) == 0
    assert [row["metrics"] for row in read_rows(run / "rows.jsonl")[:-1]] == before[:-1]
    assert main(["validate", *chosen]) == 2
    assert "there is no validation set" in capsys.readouterr().err
    assert main(["predict", *chosen]) == 0
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert {*told} == {"pairs", "train", "objects"}
    assert {Path(folder).parent for folder in told.values()} == {run.parent.parent / "features"}
    found = features(run)
    pairs, objects = found["pairs"], found["objects"]
    assert pairs.image["features"].shape == (40, 16)
    assert pairs.text["features"].shape == (len(pairs.owner), 16)
    torch.testing.assert_close(pairs.image["features"].norm(dim=1), torch.ones(40))
    assert not objects.text
    assert len(objects.labels) == 64
    assert objects.class_features is not None


def test_the_data_are_opened_once(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    init = SceneObjects.__init__

    def count(self: SceneObjects, split: str, *args: Any, **kwargs: Any) -> None:
        opened.append(split)
        init(self, split, *args, **kwargs)

    monkeypatch.setattr(SceneObjects, "__init__", count)
    assert main(["test", *finished[1]]) == 0
    assert sorted(opened) == ["test", "train"]


def test_another_checkpoint_has_its_own_directory(finished: Finished) -> None:
    run, chosen = finished
    other = run.parent / "elsewhere.ckpt"
    other.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    before = {path.name for path in run.parent.iterdir()}
    stored = {path.name for path in (run.parent.parent / "features").iterdir()}
    assert main(["test", *chosen, f"ckpt={other}"]) == 0
    assert stored == {path.name for path in (run.parent.parent / "features").iterdir()}  # of the same weights
    (made,) = {path.name for path in run.parent.iterdir()} - before
    rows = read_rows(run.parent / made / "rows.jsonl")
    assert [row["metrics"] for row in rows[:-1]] == [row["metrics"] for row in read_rows(run / "rows.jsonl")[:-1]]
    assert not (run.parent / made / "DONE").exists()


def test_help_is_lightnings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "--trainer.max_epochs" in told
    assert "--model.weight_decay" in told
