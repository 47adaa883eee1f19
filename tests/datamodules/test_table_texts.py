import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.array_file import ArrayFile, written_arrays
from datamodules.table_texts import TableFile, TableTexts


def texts(path: Path, begins: list[int]) -> TableTexts:
    dtype = np.min_scalar_type(max(begins))
    with written_arrays(path.with_suffix(".bin")) as writer:
        writer.add("begins", [np.array(begins, dtype)], dtype.str)
    return TableTexts(ArrayFile(path.with_suffix(".bin")), TableFile(*TableFile.facts(path, ",")), 1)


def test_a_column_is_a_list_also_with_rows_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("f,t\na,b\nleft out,\nc,犬\nd,", encoding="utf-8")
    column: TableTexts = pickle.loads(pickle.dumps(texts(path, [4, 19, 25, 28])))
    assert [column[index] for index in range(len(column))] == column.span(0, 3) == ["b", "犬", ""]
    assert column.span(3, 3) == []
    for index in (-1, 3):
        with pytest.raises(IndexError):
            column[index]


def test_rows_beyond_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    begin = 5 * 2**30
    with path.open("wb") as file:
        file.seek(begin)  # a hole takes no room
        file.write(b"a,b\nc,d\n")
    column = texts(path, [begin, begin + 4, begin + 8])
    assert column.span(0, 2) == ["b", "d"]


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("f,t\na,bb\n"), lambda path: os.utime(path, ns=(0, 0))],
    ids=["size", "time"],
)
def test_a_table_that_changes_in_use_is_told_in_one_line(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "m.csv"
    path.write_text("f,t\na,b\n")
    column = texts(path, [4, 8])
    assert column[0] == "b"
    pickled = pickle.dumps(column)
    change(path)
    for changed in (column, pickle.loads(pickled)):
        with pytest.raises(ValueError, match=r"m\.csv has changed since it was opened: start again$"):
            changed[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"^cannot read .*m\.csv \(No such file.*\): bring the manifest back$"):
        pickle.loads(pickled)
