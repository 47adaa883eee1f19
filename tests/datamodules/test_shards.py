import gzip
import io
import logging
import os
import pickle
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules import shard_table as shard_table_module
from datamodules.locations import matching_files
from datamodules.shard_index import ShardIndex
from datamodules.shards import ShardLabelled, ShardPairs
from datamodules.sources import Fault, LabelledSource, PairSource, Picture, UnreadableSample

Member = tuple[str, bytes]
DATA = os.environ.get("PROTOCLIP_DATA", "")


def picture(seed: int, kind: str = "PNG") -> bytes:
    pixels: NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[Member]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pair(key: str, seed: int, text: str = "one caption") -> list[Member]:
    return [(f"{key}.png", picture(seed)), (f"{key}.txt", text.encode())]


def labelled(key: str, seed: int, label: object) -> list[Member]:
    return [(f"{key}.png", picture(seed)), (f"{key}.cls", str(label).encode())]


def write_pairs(folder: Path, suffix: str = ".tar") -> None:
    folder.mkdir(exist_ok=True)
    write_tar(folder / f"s-001{suffix}", [*pair("c/7", 2, " b \r\n\n犬 \n"), *pair("x", 3), ("x.json", b"{}" * 3000)])
    write_tar(
        folder / f"s-000{suffix}", [*pair("b", 0, "one\ntwo"), *pair("a", 1), *pair("__meta__/m", 4), ("README", b"")]
    )


class Items(Dataset[tuple[str, int]]):
    def __init__(self, source: ShardPairs) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[str, int]:
        pixels = np.asarray(self.source.image(index))
        return self.source.captions(index)[0], int(pixels.astype(np.int64).sum())


def rows(picture: Picture) -> Any:
    """The pixels of a decoded picture, row by row, as Pillow gives them."""
    assert isinstance(picture, Tensor)
    return picture.permute(1, 2, 0).numpy()


def samples(source: PairSource) -> list[tuple[list[str], bytes]]:
    return [(list(source.captions(i)), rows(source.image(i)).tobytes()) for i in range(len(source))]


def test_random_access_equals_sequential_webdataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path)
    monkeypatch.chdir(tmp_path)
    source: PairSource = ShardPairs("s-{000..001}.tar", cache_dir="cache")
    monkeypatch.chdir("/")  # a source stays where it was found
    files = [str(tmp_path / "s-000.tar"), str(tmp_path / "s-001.tar")]
    oracle = [
        ([line.strip() for line in sample["txt"].decode().split("\n") if line.strip()], sample["png"])
        for sample in webdataset.WebDataset(files, shardshuffle=False)
        if "txt" in sample
    ]
    expected = [(texts, np.asarray(Image.open(io.BytesIO(data))).tobytes()) for texts, data in oracle]
    assert samples(source) == expected
    assert [source.captions(i) for i in (2, 0)] == [["b", "犬"], ["one", "two"]]
    assert source.label(0) == -1


def test_a_compressed_shard_equals_a_plain_one_and_is_inflated_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(tmp_path / "data")
    plain = ShardPairs(tmp_path / "data" / "*.tar", cache_dir=tmp_path / "cache")
    for tar in sorted((tmp_path / "data").glob("*.tar")):
        (tmp_path / "data" / f"{tar.name}.gz").write_bytes(gzip.compress(tar.read_bytes()))
    with caplog.at_level(logging.INFO):
        zipped = ShardPairs(tmp_path / "data" / "*.tar.gz", cache_dir=tmp_path / "cache")
    assert samples(zipped) == samples(plain)
    assert zipped.fingerprint == plain.fingerprint
    assert caplog.text.count("MB inflated") == 2
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    ShardPairs(tmp_path / "data" / "*.tar.gz", cache_dir=tmp_path / "cache")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == before
    assert len(before) == 4  # two indices, two inflated shards
    assert len(list((tmp_path / "data").iterdir())) == 4


def test_the_index_is_built_once_and_again_when_a_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path)
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path / "cache"))
    first = ShardPairs(tmp_path / "*.tar")
    expected = samples(first)
    with monkeypatch.context() as patch:
        patch.setattr(shard_table_module, "tar_samples", None)
        again = ShardPairs(tmp_path / "*.tar")
        assert samples(again) == expected
        assert again.fingerprint == first.fingerprint
        os.utime(tmp_path / "s-000.tar", ns=(1, 1))
        with pytest.raises(TypeError):
            ShardPairs(tmp_path / "*.tar")
    assert ShardPairs(tmp_path / "*.tar").fingerprint == first.fingerprint
    write_tar(tmp_path / "s-000.tar", [*pair("new", 8), *pair("a", 1)])
    changed = ShardPairs(tmp_path / "*.tar")
    assert samples(changed) != expected
    assert changed.fingerprint != first.fingerprint


def test_a_spoilt_index_is_built_again(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    expected = samples(ShardPairs(tmp_path / "*.tar", cache_dir=tmp_path / "cache"))
    for content in (b"", b"no archive", next((tmp_path / "cache").iterdir()).read_bytes()[:-100]):
        next((tmp_path / "cache").iterdir()).write_bytes(content)
        assert samples(ShardPairs(tmp_path / "*.tar", cache_dir=tmp_path / "cache")) == expected


def test_shards_of_one_name_size_and_time_in_two_folders_do_not_share_an_index(tmp_path: Path) -> None:
    for folder, text in (("one", "ab"), ("two", "ba")):
        (tmp_path / folder).mkdir()
        members = pair("k", 1, text) if folder == "one" else list(reversed(pair("k", 1, text)))
        os.utime(write_tar(tmp_path / folder / "s.tar", members), ns=(5, 5))
    sources = [ShardPairs(tmp_path / name / "s.tar", cache_dir=tmp_path / "cache") for name in ("one", "two")]
    assert [source.captions(0) for source in sources] == [["ab"], ["ba"]]


def test_fingerprint_is_the_content_not_the_place(tmp_path: Path) -> None:
    write_pairs(tmp_path / "here")
    here = ShardPairs(tmp_path / "here" / "*.tar", cache_dir=tmp_path / "cache")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    os.utime(tmp_path / "there" / "s-000.tar", ns=(1, 1))
    there = ShardPairs(tmp_path / "there" / "*.tar", cache_dir=tmp_path / "cache")
    assert there.fingerprint == here.fingerprint
    assert there.content != here.content  # it tells when shards were written, for they may have other pixels
    # As long as before: only the captions' content tells.
    write_tar(tmp_path / "there" / "s-000.tar", [*pair("b", 0, "two\none"), *pair("a", 1)])
    write_tar(tmp_path / "here" / "s-000.tar", [*pair("b", 0, "one\ntwo"), *pair("a", 1)])
    prints = [ShardPairs(tmp_path / f / "*.tar", cache_dir=tmp_path / "cache").fingerprint for f in ("here", "there")]
    assert prints[0] != prints[1]


def test_two_workers_read_what_the_parent_reads(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    source = ShardPairs(tmp_path / "*.tar", cache_dir=tmp_path / "cache")
    expected = [Items(source)[i] for i in range(len(source))]  # the parent's handles are open by now
    assert samples(pickle.loads(pickle.dumps(source))) == samples(source)
    loader = DataLoader(Items(source), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [tuple(item) for item in loader] == expected


def test_incomplete_samples_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [
        *pair("a", 0),
        ("b.png", picture(1)),
        ("c.txt", b"x"),
        ("d.txt", b""),
        ("d.png", picture(2)),
        *pair("e", 3),
    ]
    path = write_tar(tmp_path / "s.tar", members)
    source = ShardPairs(path, max_faults=0.6, cache_dir=tmp_path / "cache")
    assert len(source) == 2
    assert source.faults == {"missing_part": 3}
    assert f"{path}: 3 missing_part, the first: s.tar: b: it lacks captions (txt)" in caplog.text
    with pytest.raises(
        ValueError, match=r"3 of 5 samples .*s\.tar: b: .*; mend the corpus, or raise data\.max_faults=0\.5$"
    ):
        ShardPairs(path, max_faults=0.5, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"no sample of .* has a picture \(jpg\).*only \['png', 'txt'\]"):
        ShardPairs(path, image_keys=["jpg"], cache_dir=tmp_path / "cache")


def test_extensions_ignore_case_and_the_first_key_wins(tmp_path: Path) -> None:
    members = [("K.a.PNG", picture(0)), ("k.JPG", picture(1, "JPEG")), ("k.png", picture(2)), ("k.TXT", b"hello")]
    path = write_tar(tmp_path / "s.tar", members)
    first = ShardPairs(path, max_faults=0.5, cache_dir=tmp_path / "cache")
    other = ShardPairs(path, image_keys=["png", "jpg"], max_faults=0.5, cache_dir=tmp_path / "cache")
    assert samples(first) != samples(other)
    assert first.fingerprint != other.fingerprint
    assert np.array_equal(rows(other.image(0)), np.asarray(Image.open(io.BytesIO(picture(2)))))


def test_a_bad_sample_raises_when_read_and_names_shard_and_key(tmp_path: Path) -> None:
    members = [*pair("a", 0, " \n\n"), ("b.png", picture(0)[:60]), ("b.txt", b"\xff"), *pair("c", 1)]
    source = ShardPairs(write_tar(tmp_path / "s.tar", members), cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"s\.tar: a: the caption is blank"):
        source.captions(0)
    with pytest.raises(ValueError, match=r"s\.tar: b: the text is not UTF-8"):
        source.captions(1)
    with pytest.raises(ValueError, match=r"s\.tar: b: not a readable picture"):
        source.image(1)


def test_shards_are_found_by_path_list_glob_and_braces(tmp_path: Path) -> None:
    names = ["s-000.tar", "s-001.tar", "s-002.tar", "odd{1,2}.tar"]
    for name in names:
        (tmp_path / name).touch()

    def found(*patterns: str) -> list[str]:
        return [file.name for file in matching_files([f"{tmp_path}/{pattern}" for pattern in patterns])]

    assert [file.name for file in matching_files(tmp_path / "s-001.tar")] == ["s-001.tar"]
    assert [file.name for file in matching_files(f"{tmp_path}/s-*.tar")] == names[:3]
    assert found("s-{002,000}.tar") == ["s-000.tar", "s-002.tar"]
    faults: list[Fault] = []
    there = matching_files([f"{tmp_path}/s-{{001..004}}.tar", tmp_path / "no.tar"], report=faults.append)
    assert [file.name for file in there] == names[1:3]
    assert [(fault.kind, Path(fault.place).name) for fault in faults] == [
        ("missing_shard", name) for name in ("s-003.tar", "s-004.tar", "no.tar")
    ]
    with pytest.raises(ValueError, match=r"no file matches .*no-0\.tar: check the path, or set PROTOCLIP_DATA"):
        matching_files(f"{tmp_path}/no-{{0..3}}.tar", report=faults.append)
    with pytest.raises(ValueError, match=r"no file matches .*no-\*\.tar"):
        matching_files([tmp_path / "s-000.tar", f"{tmp_path}/no-*.tar"], report=faults.append)
    assert found("s-002.tar", "s-00{0..1}*", "odd{1,2}.tar") == ["odd{1,2}.tar", *names[:3]]
    with pytest.raises(ValueError, match=r"no file matches .*s-003\.tar: check the path, or set PROTOCLIP_DATA"):
        found("s-{000..003}.tar")
    with pytest.raises(ValueError, match=r"s-000\.tar is listed twice"):
        found("s-*.tar", "s-000.tar")
    with pytest.raises(ValueError, match="is a folder"):
        matching_files(tmp_path)
    with pytest.raises(ValueError, match="no shards given"):
        matching_files([])
    (tmp_path / "s.zip").touch()
    with pytest.raises(ValueError, match=r"s\.zip is not a shard: give \.tar or \.tar\.gz"):
        ShardIndex(tmp_path / "s.zip", cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"cannot make the cache folder .* set PROTOCLIP_CACHE"):
        ShardIndex(tmp_path / "s-000.tar", cache_dir=tmp_path / "s-000.tar")


def json_captions(path: Path, content: bytes, *keys: str) -> Sequence[str]:
    write_tar(path, [("a.png", picture(0)), ("a.json", content)])
    return ShardPairs(path, caption_keys=keys or ("json:caption",), cache_dir=path.parent / "cache").captions(0)


def test_captions_come_from_json_where_a_sample_has_no_text(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    assert json_captions(path, b'{"caption": " a\\nb "}') == ["a\nb"]  # one caption: only files have them by lines
    assert json_captions(path, '{"n": ["犬", " ", "b"]}'.encode(), "json:n") == ["犬", "b"]
    members = [*pair("a", 0, "text"), ("a.json", b'{"caption": "json"}'), ("b.png", picture(1)), ("b.txt", b"")]
    write_tar(path, [*members, ("b.json", b'{"caption": "json"}')])
    for keys, expected in ((("txt", "json:caption"), ["text", "json"]), (("json:caption", "txt"), ["json", "json"])):
        source = ShardPairs(path, caption_keys=keys, cache_dir=tmp_path / "cache")
        assert [source.captions(i)[0] for i in range(2)] == expected


def test_wrong_json_is_told_when_read(tmp_path: Path) -> None:
    wrong = {
        b"{": "not a JSON object",
        b"\xff": "not a JSON object",
        b"[" * 100_000: "not a JSON object",
        b"[1]": "not a JSON object",
        b'{"other": "x"}': "no JSON object with 'caption': set caption_keys",
        b'{"caption": null}': "'caption' is no text",
        b'{"caption": ["a", 1]}': "'caption' is no text",
        b'{"caption": "\\ud800"}': "half a character",
        b'{"caption": " "}': "the caption is blank",
        b'{"caption": []}': "the caption is blank",
    }
    for content, reason in wrong.items():
        with pytest.raises(UnreadableSample, match=f"^s\\.tar: a: .*{reason}") as caught:
            json_captions(tmp_path / "s.tar", content)
        assert caught.value.kind == ("bad_text" if "blank" in reason or "half" in reason else "bad_json")


def test_a_labelled_set_bears_no_fault(tmp_path: Path) -> None:
    members = [member for i in range(9) for member in labelled(f"k{i}", i, 0)]
    path = write_tar(tmp_path / "s.tar", members)
    with pytest.raises(ValueError, match=r"no\.tar: there is no such file: bring it back$"):
        ShardLabelled([path, tmp_path / "no.tar"], classnames=["a"], templates=["{}"], cache_dir=tmp_path / "cache")
    write_tar(path, [*members, *members[:2]])
    with pytest.raises(ValueError, match=r"s\.tar: k0: there twice"):
        labelled_set(path)
    os.truncate(write_tar(path, members), 5000)
    with pytest.raises(ValueError, match=r"s\.tar: damaged .*: fetch it again"):
        labelled_set(path)


def labelled_set(path: Path, **options: Any) -> ShardLabelled:
    fields = {"classnames": ["cat", "dog"], "templates": ["a {}."], "cache_dir": path.parent / "cache", **options}
    return ShardLabelled(path, **fields)


def test_a_labelled_set_and_its_limit(tmp_path: Path) -> None:
    members = [member for i, label in enumerate([1, 0, 1, "1\n", 0]) for member in labelled(f"k{i}", i, label)]
    path = write_tar(tmp_path / "s.tar", members)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    source: LabelledSource = labelled_set(path, classnames=tmp_path / "names.txt")
    assert (list(source.classnames), list(source.templates)) == (["cat", "dog"], ["a {}."])
    assert [source.label(i) for i in range(len(source))] == [1, 0, 1, 1, 0]
    two, one = labelled_set(path, limit=2), labelled_set(path, limit=1)
    assert [two.label(i) for i in range(len(two))] == [1, 0, 1, 0]
    assert [rows(two.image(i)).tolist() == rows(source.image(k)).tolist() for i, k in enumerate([0, 1, 2, 4])] == [
        True
    ] * 4
    assert [one.label(i) for i in range(len(one))] == [1, 0]
    assert labelled_set(path, limit=9).fingerprint == source.fingerprint
    assert len({source.fingerprint, two.fingerprint, one.fingerprint}) == 3
    swap = bytes.maketrans(b"01", b"10")
    write_tar(path, [(name, data.translate(swap) if "cls" in name else data) for name, data in members])
    assert labelled_set(path).fingerprint != source.fingerprint


@pytest.mark.parametrize("label", [2, -1, "cat", "", "1.0"])
def test_a_label_without_a_name_is_refused(tmp_path: Path, label: object) -> None:
    path = write_tar(tmp_path / "s.tar", [*labelled("ok", 0, 1), *labelled("bad", 1, label)])
    with pytest.raises(ValueError, match=r"s\.tar: bad"):
        labelled_set(path)


def test_a_class_without_a_sample_is_refused_or_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tar(tmp_path / "s.tar", [*labelled("a", 0, 2), *labelled("b", 1, 0), *labelled("c", 2, 2)])
    names = {"classnames": ["cat", "dog", "fish", "bird"]}
    told = r"s\.tar: 2 of 4 classes have no picture, such as 'dog': add pictures, or leave the class out$"
    with pytest.raises(ValueError, match=told):
        labelled_set(path, **names)
    with caplog.at_level(logging.WARNING):
        source = labelled_set(path, **names, empty_classes="drop")
    assert (source.classnames, [source.label(i) for i in range(3)]) == (["cat", "fish"], [1, 0, 1])
    assert "s.tar: 2 classes without any picture are left out" in caplog.text
    one = labelled_set(path, **names, empty_classes="drop", limit=1)
    assert [one.label(i) for i in range(len(one))] == [1, 0]


@pytest.mark.parametrize(("member", "lacking"), [(0, r"\.cls"), (1, "picture")])
def test_a_sample_without_label_or_picture_is_refused(tmp_path: Path, member: int, lacking: str) -> None:
    path = write_tar(tmp_path / "s.tar", [*labelled("ok", 0, 1), labelled("bad", 1, 1)[member]])
    with pytest.raises(ValueError, match=rf"s\.tar: bad has no {lacking}"):
        labelled_set(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"limit": 0}, "limit=0"), ({"templates": []}, "one {} each"), ({"templates": ["a photo"]}, "one {} each")],
)
def test_options_that_make_no_set_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write_tar(tmp_path / "s.tar", labelled("k", 0, 1))
    with pytest.raises(ValueError, match=message):
        labelled_set(path, **options)


@pytest.mark.skipif(not (Path(DATA) / "flickr8k").is_dir() or not DATA, reason="PROTOCLIP_DATA holds no flickr8k/")
def test_flickr8k_is_whole(tmp_path: Path) -> None:
    keys: set[bytes] = set()
    for split, count in (("train", 2800), ("val", 300), ("test", 500)):
        source = ShardPairs(f"{DATA}/flickr8k/flickr8k-{split}-*.tar", cache_dir=tmp_path)
        assert len(source) == count
        assert {len(source.captions(i)) for i in range(count)} == {5}
        assert min(source.image(count - 1).shape[1:]) == 128
        keys |= {rows(source.image(i)).tobytes() for i in range(0, count, 50)}
    assert len(keys) == 72  # no picture in two splits


@pytest.mark.skipif(not (Path(DATA) / "cifar10").is_dir() or not DATA, reason="PROTOCLIP_DATA holds no cifar10/")
def test_cifar10_is_whole_and_balanced(tmp_path: Path) -> None:
    for split, count in (("train", 10_000), ("test", 2_000)):
        source = ShardLabelled(
            f"{DATA}/cifar10/cifar10-{split}-*.tar.gz",
            classnames=f"{DATA}/cifar10/classnames.txt",
            templates=["a photo of a {}."],
            cache_dir=tmp_path,
        )
        assert Counter(source.label(i) for i in range(count)) == dict.fromkeys(range(10), count // 10)
        assert (len(source), source.image(count - 1).shape, source.classnames[3]) == (count, (3, 32, 32), "cat")
