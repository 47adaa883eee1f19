from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datamodules.tables import read_columns, read_rows

KEYS = ("f", "t")


def cells(path: Path) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for rows in read_rows(path, KEYS, None):
        paths, captions = (column.cast(pa.binary()).to_pylist() for column in (rows.paths, rows.captions))
        found += zip(paths, captions, strict=True)
    return found


def test_rows_across_blocks_and_batches_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.csv_columns._BLOCK", 64)
    monkeypatch.setattr("datamodules.tables._ROWS", 3)
    expected = [(b"%d" % row, b'a "quoted" text,\nno. %d' % row) for row in range(20)]
    csv, jsonl = tmp_path / "m.csv", tmp_path / "m.jsonl"
    csv.write_text("f,t\n" + "".join(f'{row},"a ""quoted"" text,\nno. {row}"\n' for row in range(20)))
    jsonl.write_text("\n".join(f'{{"f": "{row}", "t": "a \\"quoted\\" text,\\nno. {row}"}}' for row in range(20)))
    assert cells(csv) == cells(jsonl) == expected


@pytest.mark.parametrize("row", [1, 5])
def test_a_cell_that_is_no_text_is_told_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    monkeypatch.setattr("datamodules.tables._ROWS", 2)
    lines: list[Any] = ['{"f": "a", "t": "b"}'] * 6
    lines[row - 1] = '{"f": "a", "t": 7}'
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"row {row}: a caption is a text or a list of texts, found 7$"):
        list(read_rows(path, KEYS, None))


def test_columns_of_any_type(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("f,n\na,1\nb,2\n")
    (tmp_path / "m.jsonl").write_text('{"f": "a", "n": 1}\n{"f": "b"}\n')
    assert [*read_columns(tmp_path / "m.csv", ("n", "f"), None)] == [[["1", "2"], ["a", "b"]]]
    assert [*read_columns(tmp_path / "m.jsonl", ("f", "n"), None)] == [[["a", "b"], [1, None]]]
    with pytest.raises(ValueError, match=r"m\.jsonl: separator is for \.csv and \.tsv"):
        read_columns(tmp_path / "m.jsonl", ("f",), ";")
