"""A run directory is written by one process, and its files are whole (protoclip/runs.py)."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from protoclip import runs
from protoclip.checkpoints import AtomicCheckpointIO
from protoclip.evaluation.feature_store import FeatureStore, StoredSet
from protoclip.reports.rows import Row
from protoclip.runs import Run, features, load

ROW = Row(
    run="hash", name="n", git="g", model="m", method="clip", seed=0, data={}, task="t",
    metrics={"top1": 1.0}, counts={}, prompts=None, cost={}, time="now",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "hash", "hash")


def test_a_second_writer_is_refused(run: Run) -> None:
    other = Run(run.path, run.hash)
    told = "being written by another process: wait for it, or choose"
    with run.lock(), pytest.raises(ValueError, match=told), other.lock():
        pass
    with other.lock():
        pass


def test_a_failure_releases_the_lock(run: Run) -> None:
    def fail() -> None:
        with run.lock():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with run.lock():
        pass


def test_children_of_a_killed_process_do_not_hold_its_lock(run: Run) -> None:
    """Loader workers live on for seconds after a SIGKILL."""
    told, tell = os.pipe()
    holder = os.fork()
    if not holder:
        with run.lock():
            worker = os.fork()
            if worker:
                os.write(tell, str(worker).encode())
            time.sleep(60)
            os._exit(0)
    worker = int(os.read(told, 20))
    os.kill(holder, 9)
    os.waitpid(holder, 0)
    try:
        with run.lock():
            os.kill(worker, 0)  # it is still there
    finally:
        os.kill(worker, 9)


def test_only_the_first_process_writes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with run.lock():
        run.describe({"config.yaml": "a: 1\n"}, manifest="manifest")
        run.write_rows([ROW])
        run.finish()
    assert not run.path.exists()


def test_files_are_replaced_as_a_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.describe({"config.yaml": "a: 1\n"}, manifest="manifest")
    run.write_rows([ROW])
    run.write_rows([ROW, ROW])
    run.finish()
    assert run.rows == [ROW, ROW]
    assert run.done
    assert (run.path / "config.yaml").read_text() == "a: 1\n"
    assert json.loads((run.path / "run.json").read_text())["manifest"] == "manifest"

    def full(path: str, rows: object) -> None:
        Path(path).write_text("half a row")
        raise OSError

    monkeypatch.setattr(runs, "append_rows", full)
    with pytest.raises(OSError):  # noqa: PT011 - any
        run.write_rows([ROW])
    assert run.rows == [ROW, ROW]
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "run.json", "rows.jsonl", "DONE"}


def test_settings_are_those_of_the_file(run: Run) -> None:
    run.describe({"lightning.yaml": "model: {a: [1, x]}\ntrainer: {path: '${run_dir}/b'}\n"})
    assert run.settings == {"model": {"a": [1, "x"]}, "trainer": {"path": "${run_dir}/b"}}


def test_finished_runs_the_newest_first(tmp_path: Path) -> None:
    made = [Run(tmp_path / name, name) for name in ("b", "a", "c", "unfinished")]
    for age, run in enumerate(made):
        run.describe({})
        if run.hash != "unfinished":
            run.finish()
            os.utime(run.path / "DONE", (age, age))
    assert runs.finished_runs(str(tmp_path / "*"), str(tmp_path / "a")) == [made[2], made[1], made[0]]
    with pytest.raises(ValueError, match=r"no finished run in .*unfinished: train one, or give"):
        runs.finished_runs(str(made[3].path))


def test_last_is_neither_previous_nor_diagnostic(run: Run) -> None:
    for name in ("previous", "diagnostic", "best"):
        AtomicCheckpointIO().save_checkpoint({}, run.path / "checkpoints" / f"{name}.ckpt")
        assert run.last is None
    AtomicCheckpointIO().save_checkpoint({}, run.path / "checkpoints" / "last.ckpt")
    assert run.last == run.path / "checkpoints" / "last.ckpt"


def test_a_run_without_checkpoint_is_not_loaded(run: Run) -> None:
    run.path.mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        load(run.path)


def test_features_are_read_by_set_wherever_the_folder_of_runs_is(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "name" / "hash", "hash")
    run.describe({})
    with pytest.raises(ValueError, match="after protoclip test or protoclip predict"):
        features(run.path)
    stored = {}
    for number, name in enumerate(("pairs", "objects")):
        store = FeatureStore(tmp_path / "runs" / "features", {"set": name}, frozenset(), 2, 2)
        store.begin()
        store.write({"index": np.arange(2), "label": np.arange(2), "image/words": np.full((2, 3), number)})
        store.finish()
        stored[name] = StoredSet(store.folder, None)
    run.write_features(stored)
    moved = (tmp_path / "runs").rename(tmp_path / "moved")
    found = features(moved / "name" / "hash")
    assert {name: int(extracted.image["words"][0, 0]) for name, extracted in found.items()} == {
        "objects": 1,
        "pairs": 0,
    }
    assert torch.equal(found["pairs"].labels, torch.arange(2))
    labels = moved / "features" / stored["pairs"].pictures.name / "labels.npy"
    labels.write_bytes(labels.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=f"{labels.parent.name} is damaged"):
        features(moved / "name" / "hash")
    with pytest.raises(ValueError, match="move the folder of all runs as a whole"):
        features((moved / "name" / "hash").rename(tmp_path / "alone"))


def test_a_body_that_writes_nothing_leaves_no_directory(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "name" / "hash", "hash")
    with run.lock():
        assert run.locked
    assert not [*tmp_path.iterdir()]
    beside = Run(run.path.with_name("other"), "other")
    with beside.lock():
        beside.describe({})
    with run.lock():
        pass
    assert [*run.path.parent.iterdir()] == [beside.path]
    assert {path.name for path in beside.path.iterdir()} == {".lock", "run.json"}
