import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.array_file import ArrayFile, written_arrays
from datamodules.grouping import StoredPairs, store_pairs, store_plain_pairs
from datamodules.plain_table import PlainTable
from datamodules.sources import FaultKind
from datamodules.tables import Rows


def rows(paths: Sequence[str | None], captions: Sequence[str | None], summaries: Sequence[str | None] = ()) -> Rows:
    told = pa.array(summaries, pa.string()) if summaries else None
    return Rows(pa.array(paths, pa.string()), pa.array(captions, pa.string()), np.arange(len(paths)), told)


def stored(folder: Path, *batches: Rows) -> tuple[StoredPairs, dict[FaultKind, int]]:
    with written_arrays(folder / "a.bin") as writer:
        number, faults = store_pairs(batches, writer)
    pairs = StoredPairs(ArrayFile(folder / "a.bin"))
    assert len(pairs) == number
    return pairs, faults


@pytest.mark.parametrize("paths", ["abcd", "aabb", "abab", "bbaa", "dcba", "aaaa"])
def test_rows_of_one_path_are_one_pair_whatever_their_order(tmp_path: Path, paths: str) -> None:
    pairs, faults = stored(tmp_path, rows(list(paths[:3]), ["0", "1", "2"]), rows([], []), rows([paths[3]], ["3"]))
    expected: dict[str, list[str]] = {}
    for number, path in enumerate(paths):
        expected.setdefault(path, []).append(str(number))
    assert [pairs.path(index) for index in range(len(pairs))] == [*expected]
    assert [pairs.captions(index) for index in range(len(pairs))] == [*expected.values()]
    assert faults == {}


def test_what_is_blank_is_what_python_strips(tmp_path: Path) -> None:
    texts = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    texts += ["", " \u3000\n", " a", "\u3000b"]
    paths = [f"{number:07d}" for number in range(len(texts))]
    pairs, faults = stored(tmp_path, rows(paths, texts))
    kept = [number for number, text in enumerate(texts) if text.strip()]
    assert [pairs.path(index) for index in (0, len(kept) - 1)] == [paths[kept[0]], paths[kept[-1]]]
    assert len(pairs) == len(kept)
    assert faults == {"missing_part": len(texts) - len(kept)}
    assert all(pairs.captions(index) == [texts[kept[index]]] for index in range(0, len(kept), 97))


def test_a_row_without_a_path_is_lacking_and_one_of_broken_text_is_bad(tmp_path: Path) -> None:
    broken = pa.array([b"\xed\xb3\xbf", b"\xed\xb3\xbf", b" ", b"kept", None], pa.binary())
    paths = pa.array(["a", None, "c", "d", "e"], pa.string())
    pairs, faults = stored(tmp_path, Rows(paths, broken, np.arange(5), None))
    assert [pairs.captions(index) for index in range(len(pairs))] == [["kept"]]
    assert faults == {"bad_text": 1, "missing_part": 3}


def test_a_pair_has_the_first_summary_of_its_rows_or_else_its_caption(tmp_path: Path) -> None:
    batches = (
        rows(["b", "a", "c"], ["0", "1", "2"], [" ", None, "of c"]),
        rows(["b", "a", "b"], ["", "4", "5"], ["of a row that is left out", None, "later"]),
    )
    pairs, _ = stored(tmp_path, *batches)
    assert [pairs.summary(index) for index in range(3)] == ["of a row that is left out", "1", "of c"]


@pytest.mark.parametrize("names", ["abcd", "aabb", "abab", "bbaa", "dcba", "aaaa"])
@pytest.mark.parametrize("blank", [None, 0, 1, 3])
def test_pairs_of_a_plain_table_are_those_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str, blank: int | None
) -> None:
    monkeypatch.setattr("datamodules.plain_table.MAX_ROW", 8)  # two rows at a time
    captions = [" " if row == blank else str(row) for row in range(4)]
    table = tmp_path / "m.csv"
    table.write_text("f,t\n" + "".join(f"{name},{text}\n" for name, text in zip(names, captions, strict=True)))
    with written_arrays(tmp_path / "plain.bin") as writer:
        number, faults = store_plain_pairs(PlainTable(table, ("f", "t"), ","), writer)
    plain = StoredPairs(ArrayFile(tmp_path / "plain.bin"))
    expected, expected_faults = stored(tmp_path, rows(list(names), captions))
    assert (len(plain), plain.caption_count, faults) == (number, expected.caption_count, expected_faults)
    for index in range(max(number, len(expected))):
        assert plain.path(index) == expected.path(index)
        assert plain.captions(index) == expected.captions(index)
        assert plain.first(index) == expected.first(index)
    for index in (-1, number):
        with pytest.raises(IndexError):
            plain.path(index)
