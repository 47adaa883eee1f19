from pathlib import Path

import pytest
from rich.console import Console

from protoclip.cli.listing import list_runs, state_of
from protoclip.reports.rows import Row
from protoclip.runs import Run


def make_run(runs: Path, name: str = "clip-scenes", digest: str = "abc") -> Run:
    run = Run(runs / name / digest, digest)
    run.describe({}, manifest="m", seed=3, episodes=4)
    return run


def row(task: str, **metrics: float) -> Row:
    return Row(
        run="abc", name="clip-scenes", git="g", model="m", method="clip", seed=3, data={"name": "scenes"},
        task=task, metrics=dict(metrics), counts={}, prompts=None, cost={}, time="2026-01-01",
    )  # fmt: skip


def test_states(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert state_of(run) == "stopped at 0/4"
    with run.lock():
        assert state_of(run) == "running"
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "diagnostic.ckpt").touch()
    assert state_of(run) == "diverged"
    run.finish()
    assert state_of(run) == "done"


def test_finished_episodes_are_read_from_the_checkpoint(tmp_path: Path) -> None:
    import torch

    run = make_run(tmp_path)
    (run.path / "checkpoints").mkdir()
    torch.save({"epoch": 1}, run.path / "checkpoints" / "last.ckpt")
    assert state_of(run) == "stopped at 2/4"
    torch.save({"epoch": 3}, run.path / "checkpoints" / "last.ckpt")
    assert state_of(run) == "trained"


def test_a_damaged_checkpoint_and_a_run_that_went_on(tmp_path: Path) -> None:
    import os

    import torch

    run = make_run(tmp_path)
    (run.path / "checkpoints").mkdir()
    last, diagnostic = run.path / "checkpoints" / "last.ckpt", run.path / "checkpoints" / "diagnostic.ckpt"
    last.write_bytes(b"PK")
    assert state_of(run) == "damaged"
    torch.save({"epoch": 1}, last)
    diagnostic.touch()
    os.utime(diagnostic, (1, 1))
    assert state_of(run) == "stopped at 2/4"


def test_a_line_for_every_run(tmp_path: Path) -> None:
    done, other = make_run(tmp_path), make_run(tmp_path, "protoclip-scenes", "def")
    done.write_rows([row("scenes_zero_shot", top1=12.345, top5=40.0), row("scenes_clustering", ari=0.1, ami=0.25)])
    done.finish()
    console = Console(record=True, width=200)
    list_runs(tmp_path, console)
    first, second = (line for line in console.export_text().splitlines() if "scenes/" in line)
    assert "clip-scenes/abc" in first
    assert "scenes_zero_shot 12.35, scenes_clustering 0.25" in first
    assert "protoclip-scenes/def" in second
    assert state_of(other) in second


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs in"):
        list_runs(tmp_path)
