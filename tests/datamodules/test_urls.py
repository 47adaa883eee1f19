import gzip
from pathlib import Path

import fsspec
import pytest

from datamodules.urls import open_shard, shard_name, shard_urls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a-0.tar", "a-1.tar", "b.tar.gz"):
        content = f"bytes of {name}".encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return tmp_path


def read(url: str) -> bytes:
    with open_shard(url) as file:
        return file.read()


def test_patterns_on_the_disk_and_elsewhere(folder: Path) -> None:
    found = shard_urls([f"{folder}/*.tar", "s3://bucket/{00..02}.tar", f"{folder}/b.tar.gz", "pipe:cat {x,y}.tar"])
    local = [str(folder / name) for name in ("a-0.tar", "a-1.tar", "b.tar.gz")]
    elsewhere = [f"s3://bucket/{number:02d}.tar" for number in range(3)]
    assert found == [*local, *elsewhere, "pipe:cat x.tar", "pipe:cat y.tar"]
    assert shard_urls(folder / "a-0.tar") == local[:1]


def test_a_shard_that_is_named_and_not_there_keeps_its_place(folder: Path) -> None:
    assert [Path(url).name for url in shard_urls(f"{folder}/a-{{0..3}}.tar")] == [f"a-{n}.tar" for n in range(4)]
    with pytest.raises(ValueError, match="no file matches"):
        shard_urls(f"{folder}/c-{{0..3}}.tar")


def test_no_shard_and_one_that_is_there_twice() -> None:
    with pytest.raises(ValueError, match="no shards given"):
        shard_urls([])
    with pytest.raises(ValueError, match=r"^s3://b/0\.tar is listed twice"):
        shard_urls(["s3://b/0.tar", "s3://b/{0,1}.tar"])


def test_urls_are_not_searched_and_commands_stay_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"^s3://b/\*\.tar: a URL is not searched"):
        shard_urls("s3://b/*.tar")
    command = r"pipe:cat /data/x.tar | sed 's/\x00$//'"
    assert shard_urls(command) == [command]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/data/00000.tar", "00000.tar"),
        ("s3://bucket/part/00000.tar.gz", "00000.tar.gz"),
        ("https://host/00000.tar?download=true&token=a/b", "00000.tar"),
        ("pipe:aws s3 cp s3://bucket/00000.tar -", "00000.tar"),
        ("pipe:curl -s 'https://host/00000.tar.gz' | gunzip -c", "00000.tar.gz"),
        ("pipe:cat /data/00000", "00000"),
    ],
)
def test_names(url: str, name: str) -> None:
    assert shard_name(url) == name


def test_bytes_from_the_disk_a_pipe_and_a_file_system(folder: Path) -> None:
    assert read(str(folder / "a-0.tar")) == b"bytes of a-0.tar"
    assert read(str(folder / "b.tar.gz")) == b"bytes of b.tar.gz"
    assert read(f"pipe:cat {folder}/a-1.tar") == b"bytes of a-1.tar"
    assert read(f"pipe:cat {folder}/b.tar.gz") == b"bytes of b.tar.gz"
    assert read(f"pipe:gunzip -c {folder}/b.tar.gz") == b"bytes of b.tar.gz"
    with fsspec.open("memory://shards/c.tar", "wb") as file:
        file.write(b"in memory")
    assert read("memory://shards/c.tar") == b"in memory"


def test_a_command_that_fails_is_told_at_its_end(folder: Path) -> None:
    with (
        open_shard(f"pipe:cat {folder}/a-0.tar; exit 3") as file,
        pytest.raises(OSError, match=r"cat .*a-0\.tar; exit 3 ended with exit code 3"),
    ):
        file.read()


def test_leaving_off_ends_the_command() -> None:
    with open_shard("pipe:yes") as file:
        assert file.read(4) == b"y\ny\n"


def test_what_is_not_there(folder: Path) -> None:
    for url in (f"{folder}/none.tar", "memory://shards/none.tar"):
        with pytest.raises(FileNotFoundError):
            open_shard(url)
    with pytest.raises(ValueError, match=r"^nowhere://0\.tar cannot be opened \(Protocol not known: nowhere\)"):
        open_shard("nowhere://0.tar")
