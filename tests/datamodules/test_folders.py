import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.folders import FolderPairs
from datamodules.sources import UnreadableSample


def put(path: Path, captions: str | bytes | None = "a caption", suffix: str = "jpg", colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (colour, colour, colour)).save(f"{path}.{suffix}")
    if captions is not None:
        content = captions.encode() if isinstance(captions, str) else captions
        path.with_name(f"{path.name}.txt").write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pairs"
    put(root / "00001" / "000010003", "first\n\n second \r\n", "png", 200)
    put(root / "00000" / "deep" / "b.c", "dotted", "webp")
    put(root / "top", "\ufeffat the top", "JPG")
    (root / "top.json").write_text("{}")
    (root / ".hidden.jpg").touch()
    (root / "notes").touch()
    return root


def test_pairs_at_any_depth_are_sorted_by_key(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(FolderPairs(str(folder))))
    assert [source.key(index) for index in range(len(source))] == ["00000/deep/b.c", "00001/000010003", "top"]
    assert [source.captions(index) for index in range(3)] == [["dotted"], ["first", "second"], ["at the top"]]
    assert np.asarray(source.image(1))[:, 0, 0].tolist() == [200, 200, 200]
    assert (source.label(0), source.faults) == (-1, {})
    for index in (-1, 3):
        with pytest.raises(IndexError):
            source.captions(index)


def test_what_is_incomplete_is_counted_and_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(folder / "a", None)
    (folder / "b.txt").write_text("no picture")
    put(folder / "c", " \n")
    put(folder / "d", b"\xff\xfe")
    put(folder / "e", None)
    (folder / "e.txt").symlink_to(folder / "nowhere")
    with caplog.at_level(logging.WARNING):
        source = FolderPairs(folder)
    assert len(source) == 3
    assert source.faults == {"missing_part": 3, "bad_text": 1, "missing_file": 1}
    (record,) = caplog.records
    assert record.getMessage().endswith("are left out (bad_text: 1, missing_file: 1, missing_part: 3)")


def test_the_first_kind_of_picture_is_used(folder: Path) -> None:
    put(folder / "top", suffix="png", colour=9)
    assert np.asarray(FolderPairs(folder).image(2))[:, 0, 0].tolist() == [0, 0, 0]


def test_the_fingerprint_is_of_keys_captions_and_sizes_not_of_the_place(folder: Path) -> None:
    seen = [FolderPairs(folder).fingerprint]
    moved = folder.rename(folder.with_name("moved"))
    (moved / "more.json").write_text("{}")
    assert FolderPairs(moved).fingerprint == seen[0]
    (moved / "top.txt").write_text("at the tip")
    seen.append(FolderPairs(moved).fingerprint)
    (moved / "top.JPG").write_bytes(b"other")
    seen.append(FolderPairs(moved).fingerprint)
    (moved / "top.JPG").rename(moved / "tip.JPG")
    (moved / "top.txt").rename(moved / "tip.txt")
    seen.append(FolderPairs(moved).fingerprint)
    assert len(set(seen)) == 4


def test_a_picture_that_goes_away_is_unreadable(folder: Path) -> None:
    source = FolderPairs(folder)
    (folder / "top.JPG").unlink()
    with pytest.raises(UnreadableSample, match=r"^cannot read .*top\.JPG \(No such file or directory\): ") as caught:
        source.image(2)
    assert caught.value.kind == "missing_file"


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^.*none is no folder: give the folder of the pairs, or use data=manifest"):
        FolderPairs(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no pair: it needs pictures KEY\.jpg and captions KEY\.txt"):
        FolderPairs(tmp_path)


def test_the_file_beside_a_pair(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one")
    source = FolderPairs(tmp_path)
    assert source.fields(0) == {}
    assert source.encoded(0) == (tmp_path / "a.png").read_bytes()
    assert source.file(0) == tmp_path / "a.png"
    (tmp_path / "a.json").write_text('{"similarity": 0.3}')
    assert source.fields(0) == {"similarity": 0.3}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UnreadableSample, match=r"a\.json: not a JSON object") as caught:
        source.fields(0)
    assert caught.value.kind == "bad_json"
