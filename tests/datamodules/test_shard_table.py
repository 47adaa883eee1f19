"""The index of shards: in several processes as in one, and of damaged shards what comes before the damage."""

import builtins
import gzip
import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import shard_table as shard_table_module
from datamodules.shard_index import ShardIndex
from datamodules.shard_table import shard_table
from datamodules.shards import ShardPairs
from tests.datamodules.test_shards import pair, samples, write_tar


def raw_pairs(path: Path, *keys: str) -> Path:
    files = [(f"{key}.{kind}", (key * 9).encode()) for key in keys for kind in ("jpg", "txt", "json")]
    return write_tar(path, files)


def test_several_processes_build_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = [raw_pairs(tmp_path / f"s-{number}.tar", f"{number}a", f"{number}b") for number in range(5)]
    write_tar(files[2], [*pair("other", 0), ("big.json", bytes(5000)), *pair("other", 0)])
    os.truncate(files[3], 4000)
    tables = []
    for processes in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda processes=processes: processes)
        (tmp_path / str(processes)).mkdir()
        with caplog.at_level(logging.INFO):
            tables.append(shard_table(files, tmp_path / str(processes)))
    one, three = tables
    assert one.keys() == three.keys()
    assert all(np.array_equal(one[name], three[name]) for name in one)
    assert [next(path.iterdir()).read_bytes() for path in (tmp_path / "1", tmp_path / "3")] == [
        next((tmp_path / "1").iterdir()).read_bytes()
    ] * 2
    assert one["extensions"].tolist() == ["jpg", "txt", "json", "png"]
    assert "indexed 5 of 5 shards" in caplog.text


def test_the_fingerprint_is_that_of_the_first_version(tmp_path: Path) -> None:
    for number in range(3):
        raw_pairs(tmp_path / f"s-{number}.tar", f"{number}/a", f"b{number}.c", "犬" * 60)
    write_tar(tmp_path / "s-3.tar", [("x.JPG", bytes(9000)), ("README", b"1"), ("x.a.txt", b"2"), ("__x__/a.txt", b"")])
    write_tar(tmp_path / "s-4.tar", [])
    index = ShardIndex(tmp_path / "s-*.tar", cache_dir=tmp_path)
    assert index.fingerprint == "8af8f81e5ff27ebed80e4b4f70bab3f4052a2b5b1baac07af55a5fd5e698f11a"


def test_of_damaged_shards_comes_what_is_before_the_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = [member for number in range(20) for member in pair(f"k{number}", number, "犬" * 200)]
    whole = write_tar(tmp_path / "whole.tar", noise).read_bytes()
    expected = samples(ShardPairs(tmp_path / "whole.tar", cache_dir=tmp_path / "cache"))
    header, packed = whole.index(b"k10.png"), gzip.compress(whole)
    damaged = {
        "cut.tar": (whole[: header + 100], 10, "damaged_shard"),
        "header.tar": (whole[:header] + b"\xff" * 200 + whole[header + 200 :], 10, "damaged_shard"),
        "payload.tar": (whole[: header - 512 - 1000], 9, "damaged_shard"),
        "cut.tar.gz": (packed[:-1], 20, "bad_gzip"),
        "sum.tar.gz": (packed[:-8] + bytes(8), 20, "bad_gzip"),
        "half.tar.gz": (packed[: len(packed) // 2], None, "bad_gzip"),
    }
    for name, (content, number, kind) in damaged.items():
        (tmp_path / name).write_bytes(content)
        for opening in range(3):
            if opening == 2:  # only the copy is left
                for file in (tmp_path / "cache").glob("index-*"):
                    file.unlink()
            caplog.clear()
            source = ShardPairs(tmp_path / name, max_faults=1, cache_dir=tmp_path / "cache")
            assert source.faults.items() >= {kind: 1}.items(), name
            assert set(source.faults) <= {kind, "missing_part"}
            assert samples(source) == expected[: len(source)]
            assert len(source) == number or (number is None and 5 < len(source) < 15)
            assert f"1 {kind}, the first: {name}: damaged" in caplog.text
        with pytest.raises(
            ValueError, match=rf"1 of 1 shards .*{name}: damaged.*or raise data\.max_faults=0\.1$"
        ) as caught:
            ShardPairs(tmp_path / name, cache_dir=tmp_path / "cache")
        assert "\n" not in str(caught.value)


def test_without_a_sample_the_fault_is_the_error(tmp_path: Path) -> None:
    for name, content in {"text.tar": b"no tar" * 500, "text.tar.gz": b"no gzip" * 50, "zero.tar": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{name}: damaged.*: fetch it again$"):
            ShardIndex(tmp_path / name, cache_dir=tmp_path / "cache")
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(ValueError, match=r"empty\.tar holds no sample"):
        ShardIndex(tmp_path / "empty.tar", cache_dir=tmp_path / "cache")


def test_faults_are_kept_with_the_index_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        keys = [f"{number}-{key}" for key in range(10)]
        raw_pairs(tmp_path / f"s-{number:02}.tar", *keys, *(keys[:1] if number == 4 else ()))
    (tmp_path / "s-07.tar").unlink()

    def opened() -> ShardPairs:
        return ShardPairs(f"{tmp_path}/s-{{00..11}}.tar", cache_dir=tmp_path / "cache")

    first = opened()
    assert first.faults == {"missing_shard": 1, "duplicate_key": 1}
    assert len(first) == 110
    monkeypatch.setattr(shard_table_module, "tar_samples", None)
    assert opened().faults == first.faults
    (tmp_path / "s-06.tar").unlink()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"2 of 12 shards cannot be used whole, the first because of .*s-06\.tar"):
        opened()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    raw_pairs(tmp_path / "s.tar", "a")
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress((tmp_path / "s.tar").read_bytes()))
    (tmp_path / "cache").mkdir()
    real = Path.replace
    for name in ("s.tar", "s.tar.gz"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(ValueError, match=r"cannot write .*No space left.*: set PROTOCLIP_CACHE"):
                ShardIndex(tmp_path / name, cache_dir=tmp_path / "cache")
    assert real is Path.replace
    assert list((tmp_path / "cache").iterdir()) == []  # nothing half-written stays


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    for name in ("a", "b"):
        raw_pairs(tmp_path / f"{name}.tar", name)
        (tmp_path / f"{name}.tar.gz").write_bytes(gzip.compress((tmp_path / f"{name}.tar").read_bytes()))
    real = io.open

    def refuse(file: Any, *args: Any, **options: Any) -> Any:
        if str(file) == str(tmp_path / f"b{suffix}"):
            raise PermissionError(13, "Permission denied")
        return real(file, *args, **options)

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", refuse)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(ValueError, match=rf"^cannot read .*b\{suffix} \(Permission denied\): check its permissions$"):
        ShardIndex(f"{tmp_path}/[ab]{suffix}", cache_dir=tmp_path / "cache")
