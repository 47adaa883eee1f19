"""Every benchmark runs at toy size and leaves rows with what a reader needs to judge them."""

import importlib
import json
import os
from pathlib import Path

import pytest

from benchmarks.measure import isolated

ROWS = {
    "step": ["step/small-resnet"],
    "prototypes": ["back_translate", "kmeans/faiss", "refresh"],
    "loss": ["prototype_loss/soft", "prototype_loss/hard"],
    "episode": ["episode"],
    "loading": ["loading"],
    "scale": [
        *("manifest/first_opening", "manifest/second_opening", "manifest/worker_memory", "manifest/worker_memory"),
        *("refresh_data/independent", "refresh_data/partition"),
    ],
    "evaluation": ["evaluation/small-vit", "evaluation/small-vit/cached"],
    "locked": ["step/locked_image_tuning/clip", "step/locked_image_tuning/protoclip"],
}
WITHOUT_PEER = {"evaluation/small-vit/cached", "refresh", "manifest/second_opening", "manifest/worker_memory"}
WITH_MEMORY = {"kmeans/faiss", "prototype_loss/soft", "prototype_loss/hard"}
WITH_MEMORY |= {"manifest/first_opening", "manifest/second_opening", "manifest/worker_memory"}
FIELDS = {
    *("name", "sizes", "peer", "memory_mb", "peer_memory_mb", "target", "details", "seconds", "peer_seconds", "ratio"),
    *("repeats", "date", "machine", "threads", "torch", "git", "command"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_leaves_its_rows(name: str, tmp_path: Path) -> None:
    results = tmp_path / "speed.jsonl"
    importlib.import_module(f"benchmarks.{name}").main(["--quick", "--results", str(results), "--threads", "1"])
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["name"] for row in rows] == ROWS[name]
    for row in rows:
        assert set(row) == FIELDS
        assert row["seconds"] > 0
        assert (row["peer"] is None) == (row["name"] in WITHOUT_PEER)
        if row["peer"]:
            assert row["ratio"] == pytest.approx(row["seconds"] / row["peer_seconds"])
        assert (row["memory_mb"] is not None) == (row["name"] in WITH_MEMORY)
        assert (row["threads"], row["repeats"] >= 1) == (1, True)


def test_an_isolated_call_runs_in_another_process() -> None:
    assert isolated(os.getpid, quick=False) != os.getpid() == isolated(os.getpid, quick=True)
