import json
from pathlib import Path

import pytest

from protoclip.reports.blocks import render_blocks
from protoclip.reports.speed import read_speed, speed_table


def row(name: str, seconds: float, **more: object) -> dict[str, object]:
    empty = dict.fromkeys(("peer", "peer_seconds", "ratio", "target", "memory_mb", "peer_memory_mb"))
    where = {"machine": "cpu", "torch": "2", "date": "2026-01-02T03", "git": "abc"}
    return {"name": name, "seconds": seconds, "sizes": {"K": 3}, "details": {}, **empty, **where, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [
        row("a", 1.0),
        row("b", 2.0, peer="loop", peer_seconds=4.0, ratio=0.5, target=0.1),
        row("a", 3.0, memory_mb=7.4, details={"seconds_a": 1.25}),
    ]
    path = tmp_path / "speed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_last_row_of_a_thing_counts(path: Path) -> None:
    assert [(row["name"], row["seconds"]) for row in read_speed(path)] == [("b", 2.0), ("a", 3.0)]


def test_a_table(path: Path) -> None:
    lines = speed_table(read_speed(path)).splitlines()
    assert lines[2] == "| b | K 3 | 2 s | loop | 4 s | 0.5 (aim 0.1) |  |  |"
    assert lines[3] == "| a | K 3 | 3 s |  |  |  | 7 MB | seconds a 1.25 |"
    assert lines[-1] == "cpu, torch 2, 2026-01-02, revision abc. Medians."


def test_a_block(path: Path) -> None:
    text = render_blocks("<!-- speed: speed.jsonl -->\nold\n<!-- end of table -->", path.parent)
    assert "old" not in text
    assert "| b | K 3 |" in text
    with pytest.raises(ValueError, match="no rows at"):
        render_blocks("<!-- speed: other.jsonl -->\n<!-- end of table -->", path.parent)


def test_a_broken_line(path: Path) -> None:
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 is no row"):
        read_speed(path)
