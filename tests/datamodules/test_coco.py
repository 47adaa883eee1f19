import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.coco import CocoPairs
from datamodules.sources import PairSource, UnreadableSample
from tests.datamodules.test_shards import picture

IMAGES = [{"id": 9, "file_name": "b.png"}, {"id": 4, "file_name": "a.png"}, {"id": 5, "file_name": "c.png"}]
CAPTIONS = [(4, "A cat."), (9, "A dog.\n"), (4, "One cat"), (9, " "), (4, "Cat")]


def write_coco(folder: Path, name: str = "captions_train2017.json") -> Path:
    """Three pictures, one of them without a caption, in the layout of COCO's archives."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    for seed, image in enumerate(IMAGES[:2]):
        (folder / "train2017" / str(image["file_name"])).write_bytes(picture(seed))
    rows = [{"id": row, "image_id": image, "caption": text} for row, (image, text) in enumerate(CAPTIONS)]
    path = folder / "annotations" / name
    path.write_text(json.dumps({"images": IMAGES, "annotations": rows}), encoding="utf-8")
    return path


def test_pictures_have_all_their_captions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source: PairSource = CocoPairs(write_coco(tmp_path), tmp_path / "train2017")
    assert [source.key(index) for index in range(len(source))] == ["b.png", "a.png"]
    assert [source.captions(index) for index in range(2)] == [["A dog."], ["A cat.", "One cat", "Cat"]]
    assert source.faults == {"missing_part": 1}
    assert "1 pictures have no caption" in caplog.text
    assert np.asarray(source.image(0)).shape == (3, 5, 6)
    assert source.encoded(1) == picture(1)
    assert source.file(1) == tmp_path / "train2017" / "a.png"
    assert source.label(0) == -1
    (tmp_path / "train2017").rename(tmp_path / "elsewhere")
    moved = CocoPairs(tmp_path / "annotations/captions_train2017.json", tmp_path / "elsewhere")
    assert source.fingerprint == moved.fingerprint


def test_mistakes_in_one_line(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    with pytest.raises(
        UnreadableSample, match=r"cannot read elsewhere/b\.png \(No such file.*check the folder"
    ) as told:
        CocoPairs(path, "elsewhere").image(0)
    assert told.value.kind == "missing_file"
    for content in ("[]", "{", '{"images": []}', '{"images": [{"id": 1}], "annotations": []}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"is no captions file of COCO .*: fetch it again$"):
            CocoPairs(path, tmp_path)
    path.write_text('{"images": [], "annotations": []}', encoding="utf-8")
    with pytest.raises(ValueError, match="has no caption: give a captions_"):
        CocoPairs(path, tmp_path)
