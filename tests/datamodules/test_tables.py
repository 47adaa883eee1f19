import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datamodules.tables import IrregularTable, read_rows

KEYS = ("f", "t")


def cells(path: Path, *, quick: bool) -> list[tuple[bytes, bytes]] | str:
    """All rows, or in one word why there are none."""
    found: list[tuple[bytes, bytes]] = []
    try:
        for rows in read_rows(path, KEYS, None, quick=quick):
            paths, captions = (column.cast(pa.binary()).to_pylist() for column in (rows.paths, rows.captions))
            found += zip(paths, captions, strict=True)
    except IrregularTable:
        return "irregular"
    except ValueError:
        return "refused"
    return found


def test_arrow_reads_a_csv_as_pandas_does_or_leaves_it_to_it(tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "m.csv"
    pieces = [*(bytes([byte]) for byte in b'ab"",,\n\n \t\\\xff\0'), b"\r\n", "é".encode()]
    outcomes = {"quick": 0, "irregular": 0}
    for _ in range(300):
        body = b"".join(draw.choice(pieces) for _ in range(draw.randint(0, 12)))
        path.write_bytes(b"f,t\n" + draw.choice([b"", b"x,"]) + body)
        quick = cells(path, quick=True)
        if quick == "irregular":
            outcomes["irregular"] += 1
        else:
            outcomes["quick"] += 1
            assert quick == cells(path, quick=False), body
    assert min(outcomes.values()) > 50


@pytest.mark.parametrize(
    "content",
    ['f,t\na,"b\nc,d\n', 'f,t\na,b\nc,"', "f,t\na,b,c\n", "f,t\na\n", "f,t,t\na,b,c\n", "f,u\na,b\n", ""],
    ids=["open quote", "open quote at the end", "long", "short", "name twice", "no name", "empty"],
)
def test_what_arrow_would_read_otherwise_is_irregular(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(content)
    assert cells(path, quick=True) == "irregular"


def test_rows_across_blocks_and_batches_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.tables._BLOCK", 64)
    monkeypatch.setattr("datamodules.tables._ROWS", 3)
    expected = [(b"%d" % row, b'a "quoted" text,\nno. %d' % row) for row in range(20)]
    csv, jsonl = tmp_path / "m.csv", tmp_path / "m.jsonl"
    csv.write_text("f,t\n" + "".join(f'{row},"a ""quoted"" text,\nno. {row}"\n' for row in range(20)))
    jsonl.write_text("\n".join(f'{{"f": "{row}", "t": "a \\"quoted\\" text,\\nno. {row}"}}' for row in range(20)))
    assert cells(csv, quick=True) == cells(jsonl, quick=True) == expected


@pytest.mark.parametrize("row", [1, 5])
def test_a_cell_that_is_no_text_is_told_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    monkeypatch.setattr("datamodules.tables._ROWS", 2)
    lines: list[Any] = ['{"f": "a", "t": "b"}'] * 6
    lines[row - 1] = '{"f": "a", "t": 7}'
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"row {row}: a caption is a text or a list of texts, found 7$"):
        list(read_rows(path, KEYS, None))
