import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.array_file import ArrayFile, written_arrays
from datamodules.stored_texts import StoredTexts, store_texts

TEXTS = ["", "a", "Fuß", "犬", "", "more", ""]


def chunks_of(kind: Callable[[], pa.DataType]) -> list[pa.Array]:
    """In three chunks: a part of an array, an empty one, and a whole one."""
    encoded = [text.encode() for text in TEXTS]
    return [pa.array([b"not this", *encoded[:3]], kind())[1:], pa.array([], kind()), pa.array(encoded[3:], kind())]


@pytest.mark.parametrize("kind", [pa.string, pa.binary, pa.large_string, pa.large_binary])
def test_texts_in_a_file_are_a_list(tmp_path: Path, kind: Callable[[], pa.DataType]) -> None:
    with written_arrays(tmp_path / "a.bin") as writer:
        store_texts(writer, "texts", chunks_of(kind))
        store_texts(writer, "none", [])
    file = ArrayFile(tmp_path / "a.bin")
    stored = pickle.loads(pickle.dumps(StoredTexts(file, "texts")))
    assert [stored[index] for index in range(len(stored))] == TEXTS
    assert [stored.span(start, start + 3) for start in range(5)] == [TEXTS[start : start + 3] for start in range(5)]
    assert stored.span(7, 7) == []
    assert len(StoredTexts(file, "none")) == 0
    for index in (-1, len(TEXTS)):
        with pytest.raises(IndexError):
            stored[index]


def test_lone_surrogates_survive(tmp_path: Path) -> None:
    with written_arrays(tmp_path / "a.bin") as writer:
        store_texts(writer, "texts", [pa.array(["bad \udcff name".encode("utf-8", "surrogatepass")], pa.binary())])
    assert StoredTexts(ArrayFile(tmp_path / "a.bin"), "texts")[0] == "bad \udcff name"
