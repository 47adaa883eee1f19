import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.manifests import ManifestPairs
from datamodules.scenes import ScenePairs
from datamodules.shards import ShardPairs
from datamodules.sources import PairSource
from protoclip.cli import data_convert, main
from protoclip.cli.data import FORMATS
from tests.datamodules.test_shards import picture, write_tar

SIZES = [(40, 20), (8, 8), (21, 50), (10, 10), (12, 10)]
CAPTIONS = [["one", "eins"], ["two"], ["three"], ["four"], ["five"]]
SIMILARITIES = [0.1, 0.4, None, 0.4, 0.3]
KINDS = ["JPEG", "PNG", "JPEG", "GIF", "PNG"]


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (SIZES[number][1], SIZES[number][0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, KINDS[number])
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def manifest(tmp_path: Path) -> list[str]:
    """Words for a manifest of five pairs."""
    lines = []
    for number, captions in enumerate(CAPTIONS):
        (tmp_path / f"{number}.bin").write_bytes(encoded(number))
        lines.append({"filepath": f"{number}.bin", "title": captions, "similarity": SIMILARITIES[number]})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return ["data=manifest", f"data.path={tmp_path}/pairs.jsonl"]


@pytest.fixture
def shards(tmp_path: Path, manifest: list[str]) -> list[str]:
    """Words for the same pairs in a tar."""
    members = []
    for number, captions in enumerate(CAPTIONS):
        fields = {"similarity": SIMILARITIES[number], "url": f"http://{number}"}
        members += [(f"{number}.jpg", encoded(number)), (f"{number}.txt", "\n".join(captions).encode())]
        members += [(f"{number}.json", json.dumps(fields).encode())]
    return ["data=shards", f"data.path={write_tar(tmp_path / 'in.tar', members)}"]


def read(out: Path) -> PairSource:
    tables = list(out.glob("pairs.*"))
    return ManifestPairs(tables[0]) if tables else ShardPairs(out / "*.tar")


def pairs(source: PairSource) -> list[tuple[Sequence[str], bytes]]:
    return [(source.captions(index), np.asarray(source.image(index)).tobytes()) for index in range(len(source))]


def test_the_formats_are_those_of_the_command() -> None:
    assert set(FORMATS) == set(data_convert.WRITERS)


@pytest.mark.parametrize("to", ["shards", "csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_every_format_holds_the_same_pairs(
    to: str, workers: str, shards: list[str], manifest: list[str], tmp_path: Path
) -> None:
    expected = pairs(ManifestPairs(tmp_path / "pairs.jsonl"))
    for name, words in (("from_shards", shards), ("from_manifest", manifest)):
        assert main(["data", "convert", *words, str(tmp_path / name), "--to", to, "--workers", workers]) == 0
        assert pairs(read(tmp_path / name)) == expected
    assert (tmp_path / "from_shards" / "images").exists() == (to != "shards")
    assert not (tmp_path / "from_manifest" / "images").exists()  # its pictures are files already


def test_pictures_are_copied_byte_for_byte(shards: list[str], tmp_path: Path) -> None:
    assert main(["data", "convert", *shards, str(tmp_path / "out"), "--per-shard", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    source = ShardPairs(tmp_path / "out" / "*.tar")
    copied = [source.encoded(number) == encoded(number) for number in range(5)]
    assert copied == [True, True, True, False, True]  # a GIF is PNG now
    assert source.fields(4) == {
        "similarity": 0.3, "url": "http://4", "source": "in.tar: 4", "width": 12, "height": 10,
        "key": "000020", "caption": "five",
    }  # fmt: skip


@pytest.mark.parametrize("to", ["shards", "jsonl"])
def test_larger_pictures_are_shrunk_to_a_shorter_side(to: str, manifest: list[str], tmp_path: Path) -> None:
    assert main(["data", "convert", *manifest, str(tmp_path / "out"), "--to", to, "--resize", "10"]) == 0
    source = read(tmp_path / "out")
    sizes = [Image.open(io.BytesIO(source.encoded(index) or b"")).size for index in range(5)]
    assert sizes == [(20, 10), (8, 8), (10, 24), (10, 10), (12, 10)]
    assert source.encoded(1) == encoded(1)
    with Image.open(io.BytesIO(source.encoded(0) or b"")) as shrunk:
        assert shrunk.format == "JPEG"
        assert shrunk.layer[0][1:3] == (1, 1)  # type: ignore[attr-defined] # 4:4:4


def test_a_draw_is_the_same_in_every_format(shards: list[str], manifest: list[str], tmp_path: Path) -> None:
    words = ["--subset", "2", "--seed", "3"]
    assert main(["data", "convert", *shards, str(tmp_path / "a"), *words]) == 0
    assert main(["data", "convert", *manifest, str(tmp_path / "b"), "--to", "parquet", *words]) == 0
    assert main(["data", "convert", *manifest, str(tmp_path / "c"), "--to", "tsv", "--subset", "2", "--seed", "4"]) == 0
    drawn = [pairs(read(tmp_path / name)) for name in "abc"]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(each) for each in drawn] == [2, 2, 2]


def test_the_best_by_a_number(shards: list[str], manifest: list[str], tmp_path: Path) -> None:
    words = ["--by", "similarity", "--top"]
    assert main(["data", "convert", *shards, str(tmp_path / "a"), *words, "1"]) == 0
    assert main(["data", "convert", *manifest, str(tmp_path / "b"), "--to", "tsv", *words, "3"]) == 0
    assert main(["data", "convert", *manifest, str(tmp_path / "c"), "--to", "tsv", *words, "3", "--subset", "1"]) == 0
    best = [[captions[0] for captions, _ in pairs(read(tmp_path / name))] for name in "abc"]
    assert best[:2] == [["two"], ["two", "four", "five"]]  # of equal ones the first; in the order of the corpus
    assert len(best[2]) == 1
    assert best[2][0] in best[1]


def test_what_cannot_be_read_is_left_out_and_counted(
    manifest: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.bin").unlink()
    (tmp_path / "3.bin").write_bytes(picture(1)[:30])
    assert main(["data", "convert", *manifest, str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "left out: 1 missing_file, such as cannot read" in told
    assert "left out: 1 unreadable_image" in told
    assert "wrote 3 of 5 pairs" in told
    assert len(read(tmp_path / "out")) == 3


def test_damaged_fields_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("a.png", picture(1)), ("a.txt", b"one"), ("a.json", b"[1]")]
    members += [("b.png", picture(2)), ("b.txt", b"two"), ("b.json", b'{"similarity": 0.5')]
    members += [("c.png", picture(3)), ("c.txt", b"three"), ("c.json", b'{"similarity": "0.5"}')]
    members += [("d.png", picture(4)), ("d.txt", b"four")]
    words = ["data=shards", f"data.path={write_tar(tmp_path / 'in.tar', members)}"]
    assert main(["data", "convert", *words, str(tmp_path / "out")]) == 0
    assert (
        "left out: 2 bad_json, such as in.tar: a: not a JSON object in UTF-8: write it again" in capsys.readouterr().out
    )
    assert [captions for captions, _ in pairs(read(tmp_path / "out"))] == [["three"], ["four"]]
    assert main(["data", "convert", *words, str(tmp_path / "top"), "--top", "1", "--by", "similarity"]) == 2
    assert "0 of 4 pairs have a number 'similarity'" in capsys.readouterr().err


def test_pictures_that_are_drawn_lose_nothing(tmp_path: Path) -> None:
    words = ["data.num_pairs=4", "towers.image_size=32"]
    assert main(["data", "convert", *words, str(tmp_path / "out")]) == 0
    source, expected = ShardPairs(tmp_path / "out" / "*.tar"), ScenePairs("train", 4, image_size=32)
    for index in range(4):
        assert np.array_equal(np.asarray(source.image(index)), np.asarray(expected.image(index)))
        assert source.captions(index) == [" ".join(caption.split()) for caption in expected.captions(index)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--top", "2"], "--top and --by go together"),
        (["--top", "5", "--by", "similarity"], "--top 5: 4 of 5 pairs have a number 'similarity'"),
        (["--top", "2", "--by", "similar"], "has no column 'similar'"),
        (["--subset", "0"], "--subset 0 is nothing to read"),
        (["--subset", "6"], "--subset 6 of 5 pairs: give a smaller one, or leave it out"),
        (["--per-shard", "0"], "--per-shard 0: give 1 or more"),
        (["--to", "zip"], "invalid choice: 'zip'"),
    ],
)
def test_mistakes_in_one_line_leave_nothing(
    options: list[str], told: str, manifest: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "out"
    assert main(["data", "convert", *manifest, str(out), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("made/*")) + list(tmp_path.glob("made/.*"))


def test_the_folder_is_the_last_of_the_words(
    manifest: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["data", "convert", *manifest]) == 2
    assert "is an option, not a folder to write: name one after the options" in capsys.readouterr().err
    assert main(["data", "convert", *manifest, "--to", "tsv", "out"]) == 2
    assert "unrecognized arguments: out" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert main(["data", "convert", "--to", "tsv", *manifest, "out"]) == 0


def test_a_folder_that_is_there_is_left_alone(
    manifest: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert main(["data", "convert", *manifest, str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("out is there already: choose a new folder, or remove it\n")
    (tmp_path / "out").rmdir()
    (tmp_path / ".out.partial").mkdir()
    assert main(["data", "convert", *manifest, str(tmp_path / "out")]) == 2
    assert "was left by one that was killed: wait for it, or remove it" in capsys.readouterr().err
    assert (tmp_path / ".out.partial").exists()


def test_nothing_is_left_of_a_corpus_that_cannot_be_read(
    manifest: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in tmp_path.glob("*.bin"):
        file.unlink()
    assert main(["data", "convert", *manifest, str(tmp_path / "out")]) == 2
    assert "none of 5 pairs can be read" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
