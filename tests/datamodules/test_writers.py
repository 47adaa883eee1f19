import io
import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet
import pytest

from datamodules.manifests import ManifestPairs
from datamodules.shards import ShardPairs
from datamodules.writers import (
    FolderWriter,
    JsonLinesWriter,
    PairWriter,
    ParquetWriter,
    ShardWriter,
    TextTableWriter,
    WrittenPair,
)
from tests.datamodules.test_shards import picture

PAIRS = [
    WrittenPair(picture(0), "png", ["one", "zwei\n drei", 'a "quoted"\ttab'], {"similarity": 0.5}),
    WrittenPair(picture(1, "JPEG"), "jpg", ["犬"], {}),
    WrittenPair(picture(2), "png", ["last"], {}),
]
TABLES: dict[str, Callable[[Path, int], PairWriter]] = {
    "csv": partial(TextTableWriter, ending="csv"),
    "tsv": partial(TextTableWriter, ending="tsv"),
    "jsonl": JsonLinesWriter,
    "parquet": ParquetWriter,
}


def write(writer: Callable[[Path, int], PairWriter], folder: Path, pairs: list[WrittenPair]) -> Path:
    folder.mkdir()
    with writer(folder, 2) as opened:
        for pair in pairs:
            opened.write(pair)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_are_img2datasets_and_always_the_same_bytes(tmp_path: Path) -> None:
    folder = write(ShardWriter, tmp_path / "one", PAIRS)
    assert files(folder) == files(write(ShardWriter, tmp_path / "two", PAIRS))
    with tarfile.open(folder / "00000.tar") as tar:
        names = tar.getnames()
        assert {(member.mtime, member.uid, member.gid) for member in tar} == {(0, 0, 0)}
    assert names == ["000000.json", "000000.png", "000000.txt", "000001.jpg", "000001.json", "000001.txt"]
    with tarfile.open(folder / "00001.tar") as tar:
        assert tar.getnames()[0] == "000010.json"
    source = ShardPairs(folder / "*.tar", cache_dir=tmp_path / "cache")
    assert [source.encoded(index) for index in range(3)] == [pair.picture for pair in PAIRS]
    assert [source.captions(index) for index in range(3)] == [
        ["one", "zwei drei", 'a "quoted"\ttab'.replace("\t", " ")],
        ["犬"],
        ["last"],
    ]
    assert source.fields(0) == {"similarity": 0.5, "key": "000000", "caption": PAIRS[0].captions}
    assert source.fields(1)["caption"] == "犬"


def test_a_folder_has_what_the_shards_have(tmp_path: Path) -> None:
    found = files(write(FolderWriter, tmp_path / "files", PAIRS))
    expected = {}
    for tar in sorted(write(ShardWriter, tmp_path / "shards", PAIRS).iterdir()):
        with tarfile.open(tar) as opened:
            for member in opened:
                content = opened.extractfile(member)
                assert isinstance(content, io.BufferedReader)
                expected[f"{tar.stem}/{member.name}"] = content.read()
    assert found == expected


@pytest.mark.parametrize("ending", TABLES)
def test_a_manifest_has_its_pictures_beside_it(ending: str, tmp_path: Path) -> None:
    folder = write(TABLES[ending], tmp_path / "one", PAIRS)
    assert files(folder) == files(write(TABLES[ending], tmp_path / "two", PAIRS))
    source = ManifestPairs(folder / f"pairs.{ending}")
    assert [source.key(index) for index in range(3)] == [
        "images/00000/000000.png", "images/00000/000001.jpg", "images/00001/000010.png",
    ]  # fmt: skip
    assert [source.captions(index) for index in range(3)] == [list(pair.captions) for pair in PAIRS]
    assert [source.encoded(index) for index in range(3)] == [pair.picture for pair in PAIRS]


@pytest.mark.parametrize("ending", TABLES)
def test_a_manifest_may_name_pictures_where_they_are(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "ein Bild, groß.png"
    path.parent.mkdir()
    path.write_bytes(PAIRS[0].picture)
    folder = write(TABLES[ending], tmp_path / "out", [PAIRS[0]._replace(path=path)])
    assert [file.name for file in folder.iterdir()] == [f"pairs.{ending}"]
    assert ManifestPairs(folder / f"pairs.{ending}").encoded(0) == PAIRS[0].picture


def test_captions_of_a_pair_are_a_list(tmp_path: Path) -> None:
    lines = (write(JsonLinesWriter, tmp_path / "jsonl", PAIRS) / "pairs.jsonl").read_text(encoding="utf-8")
    assert [type(json.loads(line)["title"]) for line in lines.splitlines()] == [list, str, str]
    table = pyarrow.parquet.read_table(write(ParquetWriter, tmp_path / "parquet", PAIRS) / "pairs.parquet")
    assert table["title"].to_pylist() == [list(pair.captions) for pair in PAIRS]
