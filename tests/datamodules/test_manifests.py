import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from datamodules.manifests import ManifestPairs
from datamodules.sources import PairSource, UnreadableSample

ROWS = [
    ("images/b.png", "NA"),
    ("images/a.png", 'a "quoted" dog, running'),
    ("images/b.png", "null"),
    ("images/c.png", "ein Fuß, 犬 \N{DOG FACE}"),
    ("images/b.png", "tab\there"),
    ("images/a.png", "1.50"),
]
EXPECTED = [
    ["NA", "null", "tab\there"],
    ['a "quoted" dog, running', "1.50"],
    ["ein Fuß, 犬 \N{DOG FACE}"],
]
COLOURS = {"b": (0, 0, 255), "a": (255, 0, 0), "c": (0, 255, 0)}


def write(path: Path, separator: str = ",") -> None:
    frame = pd.DataFrame(ROWS, columns=["filepath", "title"])
    if path.stem == "lists":
        frame = frame.groupby("filepath", sort=False)["title"].agg(list).reset_index()
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in frame.to_dict("records")))
    elif path.suffix == ".parquet":
        frame.assign(pixels=b"unread").to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep=separator)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (4, 3), colour).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "written", "options"),
    [
        ("m.csv", ",", {}),
        ("m.tsv", "\t", {}),
        ("tabs.csv", "\t", {"separator": "\t"}),
        ("shell.csv", "\t", {"separator": "\\t"}),
        ("m.jsonl", "", {}),
        ("lists.jsonl", "", {}),
        ("m.parquet", "", {}),
        ("lists.parquet", "", {}),
    ],
)
def test_every_format_gives_the_same_samples(
    folder: Path, name: str, written: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / name, written)
    source: PairSource = ManifestPairs(folder / name, **options)
    monkeypatch.chdir("/")  # paths are the manifest's, not the working directory's
    assert [list(source.captions(i)) for i in range(len(source))] == EXPECTED
    pictures = [source.image(i) for i in range(len(source))]
    assert [np.asarray(picture)[:, 0, 0].tolist() for picture in pictures] == [list(rgb) for rgb in COLOURS.values()]
    assert [source.label(i) for i in range(3)] == [-1, -1, -1]


def test_images_root_absolute_paths_and_other_columns(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    path = tmp_path_factory.mktemp("elsewhere") / "m.csv"
    path.write_text(f"text,image\n007,images/a.png\n1.50,{folder / 'images' / 'c.png'}\n")
    source = ManifestPairs(str(path), image_key="image", caption_key="text", images_root="~")
    assert [source.captions(i) for i in range(2)] == [["007"], ["1.50"]]
    assert [tuple(source.image(i)[:, 0, 0].tolist()) for i in range(2)] == [COLOURS["a"], COLOURS["c"]]
    with pytest.raises(UnreadableSample, match=r"cannot read .*images/a\.png.*images_root"):
        ManifestPairs(path, image_key="image", caption_key="text").image(0)


def test_fingerprint_is_the_content_not_the_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(folder / "m.csv")
    here = ManifestPairs(folder / "m.csv").fingerprint
    moved = tmp_path_factory.mktemp("moved") / "m.csv"
    shutil.copy(folder / "m.csv", moved)
    assert ManifestPairs(moved, images_root="/anywhere").fingerprint == here
    assert ManifestPairs(moved, caption_key="filepath").fingerprint != here
    moved.write_text(moved.read_text().replace("NA", "NB"))
    assert ManifestPairs(moved).fingerprint != here


def test_survives_pickle_and_refuses_rows_beyond_the_end(folder: Path) -> None:
    write(folder / "m.csv")
    source: ManifestPairs = pickle.loads(pickle.dumps(ManifestPairs(folder / "m.csv")))
    assert source.captions(2) == EXPECTED[2]
    with pytest.raises(IndexError):
        source.image(3)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_column_of_summaries(folder: Path, suffix: str) -> None:
    cells: list[Any] = ["", "a dog", "not available", None, "later", "float"]
    frame = pd.DataFrame(ROWS, columns=["filepath", "title"]).assign(short=cells)
    path = folder / f"m{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    else:
        frame.to_parquet(path)
    source = ManifestPairs(path, summary_key="short")
    assert [source.summary(index) for index in range(3)] == ["not available", "a dog", EXPECTED[2][0]]
    plain = ManifestPairs(path)
    assert plain.fingerprint != source.fingerprint
    assert [plain.captions(index) for index in range(3)] == [source.captions(index) for index in range(3)]
    with pytest.raises(
        ValueError,
        match=r"^no column of the manifest has summaries: set data\.train\.summary_key, or .* add summariser=",
    ):
        plain.summary(0)
    with pytest.raises(ValueError, match=r"has no column 'shirt', only .*: did you mean 'short'\?$"):
        ManifestPairs(path, summary_key="shirt")


def test_a_summary_that_is_no_text_is_told_with_its_row(folder: Path) -> None:
    path = folder / "m.jsonl"
    path.write_text(json.dumps({"filepath": "a", "title": "b", "short": ["c"]}))
    with pytest.raises(ValueError, match=r"row 1: a summary is one text, found \['c'\]: leave summary_key out$"):
        ManifestPairs(path, summary_key="short")


def test_rows_without_caption_or_path_are_left_out_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells: list[Any] = [None, "", [], [None, " "], ["kept", ""], "kept too"]
    records = [{"filepath": "a", "title": cell} for cell in cells] + [{"filepath": "", "title": "x"}, {"title": "x"}]
    path = folder / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    with caplog.at_level(logging.WARNING):
        source = ManifestPairs(path)
    assert len(source) == 1
    assert source.captions(0) == ["kept", "kept too"]
    assert "6 rows" in caplog.text
    pd.DataFrame({"filepath": ["a", "b", None], "title": [None, "kept", "x"]}).to_parquet(folder / "m.parquet")
    assert ManifestPairs(folder / "m.parquet").captions(0) == ["kept"]


def test_captions_that_are_not_utf8_are_left_out_and_paths_may_be_any_bytes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "images" / "a.png").rename(folder / "images" / "\udcff.png")
    rows = {b"images/\xff.png": b"kept", b"images/b.png": b"\xff binary", b"images/c.png": b"also kept"}
    (folder / "m.csv").write_bytes(b"filepath,title\n" + b"".join(b"%b,%b\n" % row for row in rows.items()))
    lines = (b'{"filepath": "%b", "title": ["%b"]}\n' % row for row in rows.items())
    (folder / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
    for name in ("m.csv", "m.jsonl"):
        source = ManifestPairs(folder / name)
        assert [source.captions(index) for index in range(len(source))] == [["kept"], ["also kept"]]
        assert tuple(source.image(0)[:, 0, 0].tolist()) == COLOURS["a"]
        assert f"{name}: 1 rows have no image path, or no caption in UTF-8" in caplog.text


def test_pictures_that_are_missing_are_told_as_unreadable(folder: Path) -> None:
    paths = ["images", "nul\x00.png", "a" * 300, "\ud800.png"]
    (folder / "m.jsonl").write_text("\n".join(json.dumps({"filepath": path, "title": "x"}) for path in paths))
    source = ManifestPairs(folder / "m.jsonl")
    for index, reason in enumerate(("directory", "null byte", "too long", "surrogates")):
        with pytest.raises(UnreadableSample, match=rf"cannot read .*{reason}.*: check the manifest"):
            source.image(index)


def test_a_parquet_file_with_a_damaged_page_or_text_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pd.DataFrame({"filepath": ["a"] * 1000, "title": [str(number) for number in range(1000)]}).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + b"\xff" * 260 + whole[300:])
    with pytest.raises(ValueError, match=r"not a Parquet file .*: write it again") as caught:
        ManifestPairs(path)
    assert "\n" not in str(caught.value)
    offsets, text = (pa.py_buffer(data) for data in (b"\0\0\0\0\2\0\0\0", b"\xff\xfe"))
    title = pa.Array.from_buffers(pa.string(), 1, [None, offsets, text])
    pyarrow.parquet.write_table(pa.table({"filepath": ["a"], "title": title}), path)
    with pytest.raises(ValueError, match=r"not a Parquet file .*: write it again"):
        ManifestPairs(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "", r"empty: it needs a header"),
        ("m.csv", "filepath,title\n", r"holds no pair"),
        ("m.csv", "filepath,caption\na,b\n", r"no column 'title', only 'filepath', 'caption': set image_key"),
        ("m.csv", "file_path,title\na,b\n", r"no column 'filepath'.*did you mean 'file_path'\?"),
        ("m.csv", "filepath\ttitle\na\tb\n", r"is the separator right\?"),
        ("m.csv", "filepath,title\na,a dog, running\nb,a cat, asleep\n", r"quote captions"),
        ("m.csv", "filepath,title\na,b\nc,d, e\n", r"not a table.*line 3"),
        ("m.csv", 'filepath,title\na,"b\nc,d\n', r"not a table.*string"),
        ("m.csv", b"filepath,title\na,\xff\n", r"holds no pair"),
        ("m.csv", "filepath,title\na, \nb,\n", r"holds no pair: it needs rows with 'filepath' and 'title'"),
        ("m.csv", "filepath,title\na,b\n".encode("utf-16"), r"not a table in UTF-8: convert it"),
        ("m.jsonl", "", r"is empty"),
        ("m.jsonl", '{"filepath": "a", "title": "b"}\n{"filepath"\n', r"line 2 is no JSON object"),
        ("m.jsonl", "[1, 2]\n", r"line 1 is no JSON object"),
        ("m.jsonl", '{"filepath": "a", "title": ' + "[" * 100_000, r"line 1 is no JSON object"),
        ("m.jsonl", '{"filepath": "a", "title": 7}\n', r"row 1: a caption is a text or a list of texts, found 7"),
        ("m.jsonl", '{"filepath": "a", "text": "b"}\n', r"no column 'title', only 'filepath', 'text'"),
        ("m.parquet", "PAR2", r"not a Parquet file"),
        ("m.txt", "a b", r"is \.csv, \.tsv, \.jsonl or \.parquet"),
    ],
)
def test_a_bad_manifest_is_refused_in_one_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message) as caught:
        ManifestPairs(path)
    assert "\n" not in str(caught.value)


def test_a_wrong_parquet_column_a_missing_file_and_useless_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file matches .*none\.csv: check the path, or set PROTOCLIP_DATA"):
        ManifestPairs(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder"):
        ManifestPairs(tmp_path)
    write(tmp_path / "m.parquet")
    with pytest.raises(ValueError, match=r"no column 'titles'.*did you mean 'title'"):
        ManifestPairs(tmp_path / "m.parquet", caption_key="titles")
    with pytest.raises(ValueError, match="leave it out"):
        ManifestPairs(tmp_path / "m.parquet", separator=",")
    write(tmp_path / "m.csv")
    with pytest.raises(ValueError, match="give one character"):
        ManifestPairs(tmp_path / "m.csv", separator="::")


def test_a_second_opening_reads_nothing_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.jsonl"
    records: list[dict[str, Any]] = [{"filepath": name, "title": text} for name, text in ROWS]
    records += [{"filepath": "", "title": "x"}, {"filepath": "y"}, {"filepath": "z", "title": "\ud800"}]
    path.write_text("\n".join(map(json.dumps, records)))
    first = ManifestPairs(path, cache_dir=tmp_path / "cache")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"{path}: 3 rows have no image path, or no caption in UTF-8, and are left out"]
    monkeypatch.setattr("datamodules.manifests._make", None)
    second = ManifestPairs(path, cache_dir=tmp_path / "cache")
    for source in (first, second, pickle.loads(pickle.dumps(second))):
        assert [source.captions(index) for index in range(len(source))] == EXPECTED
        assert [source.key(index) for index in range(3)] == ["images/b.png", "images/a.png", "images/c.png"]
        assert source.faults == {"missing_part": 2, "bad_text": 1}
        assert source.fingerprint == first.fingerprint
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == told * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_fingerprint_stays_what_it_was(tmp_path: Path) -> None:
    """Runs and caches are found by it."""
    path = tmp_path / "m.csv"
    path.write_text("filepath,title,short\na.png,a picture,b\n")
    plain = "c3fc90ba8dc23eb14cce0c92b219c3e5e9f53f5fde5fc4411e6af8edec64af30"
    chosen = "73195fb5b08696eeb919dbfcc705dc8de1b6af34e60241efccc8d91a02cbc8ab"
    assert ManifestPairs(path).fingerprint == plain
    assert ManifestPairs(path, separator=",", summary_key="short").fingerprint == chosen


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: b"\0" * len(whole)])
def test_a_damaged_cache_is_made_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    write(folder / "m.csv")
    ManifestPairs(folder / "m.csv", cache_dir=folder / "cache")
    (cached,) = (folder / "cache").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(damage(whole))
    assert ManifestPairs(folder / "m.csv", cache_dir=folder / "cache").captions(2) == EXPECTED[2]
    assert cached.read_bytes() == whole


def test_a_manifest_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    for number, text in enumerate(("one", "two", "three")):
        path.write_text(f"filepath,title\na,{text}\n")
        os.utime(path, ns=(0, min(number, 1)))  # another time, then another size
        for _ in range(2):
            assert ManifestPairs(path).captions(0) == [text]
    assert ManifestPairs(path, caption_key="filepath").captions(0) == ["a"]


def test_a_pickled_copy_is_small_and_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("filepath,title\n" + "".join(f"{row}.jpg,caption {row}\n" for row in range(1000)))
    source = ManifestPairs(path)
    assert len(pickle.dumps(source)) < 1000
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.key(999), copy.captions(999)) == ("999.jpg", ["caption 999"])
    for index in (-1, 1000):
        for ask in (copy.key, copy.captions, copy.image):
            with pytest.raises(IndexError):
                ask(index)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 1, 2)], ids=["rising", "mixed"])
def test_every_caption_has_a_row_of_its_own(tmp_path: Path, order: Sequence[int]) -> None:
    rows = [("a", "0"), ("a", "1"), ("b", "2"), ("c", "3"), ("c", "4")]
    path = tmp_path / "m.csv"
    path.write_text("filepath,title\n" + "".join(f"{','.join(rows[row])}\n" for row in order))
    source = ManifestPairs(path)
    assert source.caption_count == 5
    found = {source.key(index): source.captions(index) for index in range(3)}
    assert found == {
        name: [text for row in order if rows[row][0] == name for text in rows[row][1]] for name in ("a", "b", "c")
    }
    numbers = [source.caption_row(index, number) for index in range(3) for number in range(len(source.captions(index)))]
    assert numbers == [0, 1, 2, 3, 4]


def test_a_quoted_table_and_a_plain_one_are_the_same_pairs_and_only_one_is_copied(tmp_path: Path) -> None:
    texts = [f"the caption of row {row}" for row in range(200)]
    texts[7] = " "
    sources = []
    for name, mark in (("plain", ""), ("quoted", '"')):
        path = tmp_path / f"{name}.csv"
        path.write_text(
            "filepath,title\n" + "".join(f"{row % 60}.jpg,{mark}{text}{mark}\n" for row, text in enumerate(texts))
        )
        sources.append(ManifestPairs(path, cache_dir=tmp_path / name))
    plain, quoted = sources
    assert plain.fingerprint != quoted.fingerprint
    assert plain.faults == quoted.faults == {"missing_part": 1}
    assert len(plain) == len(quoted) == 60
    for ask in ("key", "captions"):
        assert [getattr(plain, ask)(index) for index in range(60)] == [
            getattr(quoted, ask)(index) for index in range(60)
        ]
    copied = [texts[0].encode() in next((tmp_path / name).iterdir()).read_bytes() for name in ("plain", "quoted")]
    assert copied == [False, True]


def test_a_plain_manifest_that_changes_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("filepath,title\na,one\n")
    source = ManifestPairs(path)
    path.write_text("filepath,title\na,another\n")
    for ask in (source.key, source.captions):
        with pytest.raises(ValueError, match=r"^.*m\.csv has changed since it was opened: start again$"):
            ask(0)
    assert ManifestPairs(path).captions(0) == ["another"]
