import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.karpathy import CaptionLines, KarpathyPairs
from tests.datamodules.test_shards import picture


def write_karpathy(folder: Path, name: str, *, filepath: str | None = None, pictures: str = "images") -> Path:
    """Two test pictures, of two captions and of one, and one of the training split."""
    rows: list[dict[str, Any]] = []
    for number, split in enumerate(("test", "train", "test")):
        texts = [f"caption {number}.", f" other\n{number} "][: 2 - number // 2]
        row = {"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": text} for text in texts]}
        rows.append(row | ({"filepath": filepath} if filepath else {}))
        place = folder / pictures / (filepath or "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(picture(number))
    file = folder / f"dataset_{name}.json"
    file.write_text(json.dumps({"images": rows, "dataset": name}))
    return file


@pytest.mark.parametrize("filepath", [None, "val2014"])
def test_the_pictures_of_a_split(tmp_path: Path, filepath: str | None) -> None:
    file = write_karpathy(tmp_path, "flickr8k", filepath=filepath)
    source = KarpathyPairs(file, tmp_path / "images")
    assert [source.captions(index) for index in range(len(source))] == [["caption 0.", "other 0"], ["caption 2."]]
    assert source.file(1) == tmp_path / "images" / (filepath or "") / "2.jpg"
    assert source.encoded(1) == picture(2)
    train = KarpathyPairs(file, tmp_path / "images", "train")
    assert (len(train), train.fingerprint == source.fingerprint) == (1, False)
    with pytest.raises(ValueError, match=r"flickr8k\.json has no caption"):
        KarpathyPairs(file, tmp_path, "val")


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [{}]}', '{"images": [{"split": "test"}]}'])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json is no file of Karpathy's splits .*: fetch it again$"):
        KarpathyPairs(tmp_path / "x.json", tmp_path)


def test_lines_of_names_and_captions(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    two = "Two\x85 or\u2028three"  # which str.splitlines would part
    lines = f'image,caption\n1.jpg,A man, "sitting".\n2.jpg,{two}\r\n1.jpg,A man\n\n'
    file.write_text(lines, encoding="utf-8", newline="")
    source = CaptionLines(file, tmp_path)
    assert [source.captions(index) for index in range(len(source))] == [['A man, "sitting".', "A man"], [two]]
    assert source.file(1) == tmp_path / "2.jpg"
    file.write_text("image,caption\n1.jpg,A man\nwhat\n")
    with pytest.raises(ValueError, match=r"line 3 is no NAME\.jpg,CAPTION: fetch it again$"):
        CaptionLines(file, tmp_path)
