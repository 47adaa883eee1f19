import json
from pathlib import Path

import pytest

from protoclip.cli import data_check, main
from tests.datamodules.test_coco import write_coco
from tests.datamodules.test_shards import pair, picture, write_tar

ROWS = [
    ("0.png", "a red dog"),
    ("0.png", "A dog ."),
    ("1.png", "a red dog"),
    ("same.png", "犬"),
    ("broken.png", "a picture"),
    ("absent.png", "one two"),
    ("gone.png", "three"),
]


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path / "cache"))
    for name, seed in (("0.png", 0), ("1.png", 1), ("same.png", 1)):
        (tmp_path / name).write_bytes(picture(seed))
    (tmp_path / "broken.png").write_bytes(picture(2)[:40])
    lines = ["filepath\ttitle", *(f"{path}\t{caption}" for path, caption in ROWS)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    return f"data.path={tmp_path}/pairs.tsv"


@pytest.mark.parametrize("workers", ["0", "1"])
def test_tells_what_is_there_and_what_is_wrong(
    workers: str, manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "report.json"
    words = ["data=manifest", manifest, "+data.expected_pairs=12"]
    assert main(["data", "check", *words, "--workers", workers, "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {key: report[key] for key in ("corpus", "pairs", "expected_pairs", "read", "readable", "captions")} == {
        "corpus": "manifest", "pairs": 6, "expected_pairs": 12, "read": 6, "readable": 3, "captions": 4,
    }  # fmt: skip
    assert {kind: fault["pairs"] for kind, fault in report["unreadable"].items()} == {
        "unreadable_image": 1, "missing_file": 2,
    }  # fmt: skip
    assert "absent.png" in report["unreadable"]["missing_file"]["example"]  # the first of its kind
    assert report["words_per_caption"] == {"mean": 2.5, "std": pytest.approx(0.75**0.5)}
    assert report["english_words"] == 8 / 9
    assert report["unique_words"] == 6  # a, red, dog, A, ., 犬
    assert (report["equal_captions"], report["equal_pictures"]) == (1, 1)
    assert (report["widths"], report["heights"], report["smallest_picture"]) == ([6] * 5, [5] * 5, [6, 5])
    told = capsys.readouterr().out
    assert "6 of 12 expected (50.0%)" in told
    assert "2.5 ± 0.9" in told
    assert "missing_file" in told


def test_a_part_is_drawn(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=manifest", manifest]
    drawn = [data_check.check_corpus(words, limit=3, seed=seed) for seed in (0, 0, 1, 2)]
    assert all(report["read"] == 3 and report["pairs"] == 6 for report in drawn)
    assert drawn[0] == drawn[1]
    assert len({json.dumps(report) for report in drawn}) > 1
    assert data_check.check_corpus(words, limit=99)["read"] == 6
    assert main(["data", "check", *words, "--limit", "0"]) == 2
    assert capsys.readouterr().err == "error: --limit 0 is nothing to read: give 1 or more\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--workers", "-1"), "'-1' is no number of processes: give 0 or more (see protoclip data check --help)"),
        (("--out", "."), ". is a folder: give --out a file, such as check.json"),
    ],
)
def test_mistakes_in_one_line(
    options: tuple[str, ...], told: str, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "data=manifest", manifest, *options]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"{told}\n")
    assert error.count("\n") == 1


def test_without_a_word_list_the_rest_is_told(
    manifest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data_check, "english_words", lambda words: None)
    assert main(["data", "check", "data=manifest", manifest]) == 0
    told = capsys.readouterr().out
    assert "not counted: pip install pyspellchecker" in told
    assert "unique words" in told


def test_a_corpus_of_which_nothing_can_be_read(tmp_path: Path, manifest: str) -> None:
    for file in tmp_path.glob("*.png"):
        file.unlink()
    report = data_check.check_corpus(["data=manifest", manifest])
    assert report["readable"] == report["captions"] == 0
    assert report["unreadable"]["missing_file"]["pairs"] == 6


def test_what_was_left_out_at_opening_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path)
    assert main(["data", "check", "data=coco", f"data.path={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "2 of 118,287 expected (0.0%)" in told
    assert "left out: missing_part" in told


def test_pictures_that_are_drawn_are_read_too() -> None:
    report = data_check.check_corpus(["data.num_pairs=6", "towers.image_size=32"])
    assert report["readable"] == 6
    assert report["widths"] == report["heights"] == [32] * 5


def test_damaged_shards_are_told_and_do_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path / "cache"))
    write_tar(tmp_path / "0.tar", [*pair("a", 0), *pair("b", 1)])
    cut = write_tar(tmp_path / "1.tar", [*pair("c", 2), *pair("d", 3)])
    cut.write_bytes(cut.read_bytes()[:2600])
    report = data_check.check_corpus(["data=shards", f"data.path='{tmp_path}/{{0..2}}.tar'"])
    assert report["left_out"] == {"missing_shard": 1, "damaged_shard": 1}
    assert report["read"] == 3
