import pickle
from pathlib import Path

import numpy as np
import pytest

from datamodules.array_file import ArrayFile, written_arrays


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "arrays.bin"
    with written_arrays(path) as writer:
        writer.add("bytes", [np.frombuffer(b"abc", np.uint8), np.frombuffer(b"de", np.uint8)], "|u1")
        writer.add("numbers", (np.array([number, 2**40]) for number in range(3)), "<i8")
        writer.add_bounds("bounds", [np.array([3, 0]), np.array([], int), np.array([300])])
        writer.add("none", [], "<i8")
        writer.facts |= {"told": [1, "ü"]}
    return path


def test_pieces_of_arrays_are_read_also_by_a_pickled_copy(path: Path) -> None:
    for file in (ArrayFile(path), pickle.loads(pickle.dumps(ArrayFile(path)))):
        assert file.facts == {"told": [1, "ü"]}
        assert file.read("bytes", 1, 4).tobytes() == b"bcd"
        assert file.read("numbers", 1, 4).tolist() == [2**40, 1, 2**40]
        assert file.read("bounds", 0, 4).tolist() == [0, 3, 3, 303]
        assert file.read("bounds", 0, 1).dtype == np.uint16
        assert [file.count(name) for name in ("bytes", "numbers", "bounds", "none")] == [5, 6, 4, 0]
        assert "numbers" in file
        assert "other" not in file
    assert len(pickle.dumps(ArrayFile(path))) < 500


def test_a_damaged_file_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    description = whole.index(b'{"facts"')
    for damaged in (b"", b"short", whole[:-1], whole[1:], whole + b"\0", b"\0" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"arrays\.bin is damaged: remove it and start again$"):
            ArrayFile(path)
    for byte in range(description, len(whole)):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :])
        with pytest.raises(ValueError, match="is damaged"):
            ArrayFile(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"^cannot read .*arrays\.bin \(No such file or directory\): start again"):
        ArrayFile(path)


def test_a_file_that_is_cut_while_it_is_open_is_told(path: Path) -> None:
    file = ArrayFile(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="is damaged"):
        file.read("numbers", 4, 6)


def test_a_file_that_is_not_finished_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_arrays(tmp_path / "a.bin") as writer:
        writer.add("bytes", (np.zeros(1 // number, np.uint8) for number in (1, 0)), "|u1")
    assert not list(tmp_path.iterdir())
