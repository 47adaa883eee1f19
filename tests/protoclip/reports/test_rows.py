import json
import math
from pathlib import Path
from typing import Any, cast

import pytest

from protoclip.reports import Row, append_rows, read_rows


def _row(**changes: Any) -> Row:
    row: dict[str, Any] = {
        "run": "1a2b",
        "name": "clip",
        "git": "abc",
        "model": "RN50",
        "method": "clip",
        "seed": 0,
        "data": {"name": "flickr8k", "fingerprint": "ff"},
        "task": "scenes_zero_shot",
        "metrics": {"top1": 12.5},
        "counts": {"images": 200},
        "prompts": None,
        "cost": {"seconds": 1.5},
        "time": "2025-01-01T00:00:00+00:00",
    }
    return cast(Row, row | changes)


def test_rows_survive_the_file_in_order(tmp_path: Path) -> None:
    rows = [_row(seed=seed, name="β\nline\u2028") for seed in range(3)]
    path = tmp_path / "new" / "rows.jsonl"
    append_rows(path, rows[:1])
    append_rows(path, rows[1:])
    append_rows(path, [])
    other = tmp_path / "other.jsonl"
    append_rows(other, [_row(arm="a")])
    assert read_rows(path, other) == [*rows, _row(arm="a")]
    assert len(path.read_bytes().splitlines()) == 3


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [_row()])
    before = path.read_bytes()
    append_rows(path, [_row(seed=1)])
    assert path.read_bytes().startswith(before)


def test_undefined_metrics_are_null(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [_row(metrics={"silhouette": math.nan, "gap": math.inf, "none": None, "top1": 1.0})])
    assert read_rows(path)[0]["metrics"] == {"silhouette": None, "gap": None, "none": None, "top1": 1.0}
    assert "NaN" not in path.read_text()


def test_an_unfinished_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [_row()])
    path.write_bytes(path.read_bytes() + b'{"run": ')
    append_rows(path, [_row(seed=1)])
    with pytest.raises(ValueError, match=r"rows.jsonl:2: not a JSON object"):
        read_rows(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    assert [row["seed"] for row in read_rows(path)] == [0, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not a JSON object"),
        ("[1]", "not a JSON object but list"),
        (json.dumps({"task": "x"}), "the row lacks cost, counts, data"),
        (json.dumps({**_row(), "metrics": {"top1": "12"}}), "metrics must map names to numbers"),
        (json.dumps({**_row(), "metrics": {"top1": True}}), "metrics must map names to numbers"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(_row()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: {message}") as error:
        read_rows(path)
    assert "\n" not in str(error.value)


def test_a_wrong_row_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    incomplete = {key: value for key, value in _row().items() if key != "task"}
    with pytest.raises(ValueError, match="row 'clip': the row lacks task"):
        append_rows(path, [_row(), cast(Row, incomplete)])
    with pytest.raises(ValueError, match="rows hold plain numbers and text"):
        append_rows(path, [_row(), _row(cost={"folder": Path()})])
    with pytest.raises(ValueError, match="rows hold plain numbers and text"):
        append_rows(path, [_row(cost={"seconds": math.nan})])
    assert not path.exists()
