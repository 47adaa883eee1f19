import random
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.csv_columns import IrregularTable
from datamodules.tables import read_rows

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
