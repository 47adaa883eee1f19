"""Processes that share a comparison divide its runs by their locks (protoclip/cli/sweep.py); no model is trained."""

import io
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from protoclip.cli.sweep import Job, sweep
from protoclip.comparison import Arm, Comparison
from protoclip.runs import Run

ARMS = {"a": Arm(), "b": Arm(), "as_b": Arm(cost_of="b"), "few": Arm(seeds=[1])}
COMPARISON = Comparison("c", [0, 1], ARMS, [], "p")
ORDER = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("as_b", 0), ("as_b", 1), ("few", 1)]


@dataclass
class Worker:
    """Takes a run's lock and keeps a list of what it did."""

    folder: Path
    did: list[Job] = field(default_factory=list)
    finished: list[set[Job]] = field(default_factory=list)

    def run(self, job: Job) -> Run:
        return Run(self.folder / f"{job[0]}{job[1]}", "hash")

    def __call__(self, job: Job, finished: Mapping[Job, Run]) -> Run:
        with self.run(job).lock():
            self.did.append(job)
            self.finished.append(set(finished))
            return self.run(job)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), record=True)


def test_one_process_interleaves_seeds_and_waits_for_costs(tmp_path: Path, console: Console) -> None:
    worker = Worker(tmp_path)
    finished = sweep(COMPARISON, worker, console)
    assert worker.did == ORDER
    assert worker.finished[ORDER.index(("as_b", 0))] >= {("a", 0), ("a", 1), ("b", 0), ("b", 1)}
    assert list(finished) == [(key, seed) for key in ARMS for seed in COMPARISON.seeds_of(key)]
    assert all(run == worker.run(job) for job, run in finished.items())
    assert console.export_text() == ""


def test_runs_of_another_process_are_put_back(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = Worker(tmp_path), ExitStack()
    other.enter_context(worker.run(("b", 0)).lock())
    pauses: list[list[Job]] = []

    def pause() -> None:
        pauses.append(list(worker.did))
        if len(pauses) == 3:
            other.close()

    monkeypatch.setattr("protoclip.cli.sweep.pause", pause)
    sweep(COMPARISON, worker, console)
    before = [("a", 0), ("a", 1), ("b", 1), ("few", 1)]  # all but what is written, and what it decides the length of
    assert pauses == [before] * 3
    assert worker.did == [*before, ("b", 0), ("as_b", 0), ("as_b", 1)]
    assert console.export_text().count("waiting for the runs of other processes") == 1


def test_a_failure_is_no_lock(tmp_path: Path, console: Console) -> None:
    def fail(job: Job, finished: Mapping[Job, Run]) -> Run:
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        sweep(COMPARISON, fail, console)
