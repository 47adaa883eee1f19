from pathlib import Path

import pytest

from datamodules.captioned_files import CaptionedFiles
from datamodules.sources import UnreadableSample
from tests.datamodules.test_shards import picture


def test_pictures_keep_their_captions_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    told = [("b.png", ["one"]), ("none.png", []), ("a.png", ["two", "three"])]
    source = CaptionedFiles(Path("table.json"), tmp_path, b"content", told)
    assert [(source.key(index), source.captions(index)) for index in range(len(source))] == [
        ("b.png", ["one"]),
        ("a.png", ["two", "three"]),
    ]
    assert source.faults == {"missing_part": 1}
    assert "table.json: 1 pictures have no caption" in caplog.text
    assert source.image(1).shape == (3, 5, 6)
    with pytest.raises(UnreadableSample, match=r"cannot read .*b\.png"):
        source.image(0)
    assert source.fingerprint == CaptionedFiles(Path("other.json"), tmp_path, b"content", told).fingerprint
    (tmp_path / "b.png").write_bytes(picture(1))  # the folder is mended
    assert source.fingerprint != CaptionedFiles(Path("table.json"), tmp_path, b"content", told).fingerprint
    with pytest.raises(ValueError, match=r"^table\.json has no caption"):
        CaptionedFiles(Path("table.json"), tmp_path, b"content", [("a.png", [])])
