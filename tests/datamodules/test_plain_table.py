import random
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.csv_columns import IrregularTable
from datamodules.plain_table import PlainTable
from datamodules.tables import plain_table, read_rows

Cells = list[tuple[str, str]]


def kept(path: Path, separator: str = ",") -> Cells | None:
    """The rows that have a path and a caption, None where the table is not plain."""
    content, found = path.read_bytes(), []
    table = PlainTable(path, ("f", "t"), separator)
    try:
        for rows in table.rows():
            begins = rows.begins.tolist()
            lines = [content[one:other] for one, other in zip(begins, [*begins[1:], rows.end], strict=True)]
            cells = [line.decode().removesuffix("\n").split(separator) for line in lines]
            assert [cell[table.columns()[0]] for cell in cells] == [text[:-1] for text in rows.paths.to_pylist()]
            found += [cell for cell, lacking in zip(cells, rows.lacking, strict=True) if not lacking]
    except IrregularTable:
        return None
    return [(cell[table.columns()[0]], cell[table.columns()[1]]) for cell in found]


def by_pandas(path: Path) -> Cells:
    (rows,) = read_rows(path, ("f", "t"), None, quick=False)
    texts = (column.cast(pa.string()).to_pylist() for column in (rows.paths, rows.captions))
    return [(one, other) for one, other in zip(*texts, strict=True) if one.strip() and other.strip()]


def test_a_plain_table_is_what_pandas_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.plain_table.MAX_ROW", 16)  # so that rows begin in many blocks
    draw = random.Random(0)
    path = tmp_path / "m.csv"
    pieces = ["a", "b", " ", ",", "\0", "\t", "\\", "é", "\u3000", "\x1f"]
    plain = 0
    for _ in range(300):
        rows = [draw.choices(pieces, k=draw.randint(0, 3)) for _ in range(draw.randint(1, 6))]
        body = "\n".join(f"{''.join(row)},{''.join(row[::-1])}" for row in rows) + draw.choice(["", "\n"])
        path.write_text(f"f,t\n{body}", encoding="utf-8")
        if (found := kept(path)) is not None:
            assert found == by_pandas(path), body
            plain += 1
    assert 50 < plain < 250


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_table_may_be_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, dense: bool) -> None:
    path = tmp_path / "m.csv"
    rows = [(f"{row}" if dense else f"images/{row:06d}.jpg", f"{row} ein Fuß 犬"[: 1 + row % 14]) for row in range(60)]
    path.write_text("f,t\n" + "\n".join(map(",".join, rows)) + end, encoding="utf-8")
    assert by_pandas(path) == rows
    for size in range(48, 160):
        monkeypatch.setattr("datamodules.plain_table.MAX_ROW", size)
        assert kept(path) == rows, size


def test_columns_in_another_order_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes("\ufefft;x;f\n犬;1;a\n ;2;b\nc;;c\n;;d\n\u3000;;e\nz;;".encode())
    assert kept(path, ";") == [("a", "犬"), ("c", "c")]


@pytest.mark.parametrize(
    "content",
    [
        b'f,t\na,"b"\n',
        b'f,"t"\na,b\n',
        b"f,t\r\na,b\r\n",
        b"f,t\na,b\n\nc,d\n",
        b"\nf,t\na,b\n",
        b"f,t\na,b,c\n",
        b"f,t\na\nb,c,d\n",
        b"f,t\na\n",
        b"f,t\n,a,b,c\n",
        b"f,t\na,\xff\n",
        b"f,t,\xff\na,b,c\n",
        b"f,t,t\na,b,c\n",
        b"f,u\na,b\n",
        b"f,t\na," + 200 * b"b" + b"\n",
        b"f,t," + 200 * b"b" + b"\n",
        b"",
    ],
)
def test_what_is_not_plain_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("datamodules.plain_table.MAX_ROW", 128)
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    assert kept(path) is None


@pytest.mark.parametrize("separator", ["", "::", "é", '"', "\n", "t"])
def test_a_separator_that_cannot_be_plain(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(separator.join("ft") + "\n" + separator.join("ab") + "\n")
    assert kept(path, separator) is None


def test_other_formats_and_summaries_are_not_plain(tmp_path: Path) -> None:
    assert plain_table(tmp_path / "m.tsv", ("f", "t"), None).separator == "\t"
    assert plain_table(tmp_path / "m.CSV", ("f", "t"), "\\t").separator == "\t"
    for name, keys in (("m.jsonl", ("f", "t")), ("m.parquet", ("f", "t")), ("m.csv", ("f", "t", "s"))):
        with pytest.raises(IrregularTable):
            plain_table(tmp_path / name, keys, None)
