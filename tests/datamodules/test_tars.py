"""Shards read forwards: what is whole comes, and what is wrong is told once."""

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from datamodules.sources import Fault
from datamodules.tars import TarSample, printable, tar_samples

Files = Sequence[tuple[str, bytes]]
PAIRS: Files = (("a.png", b"p" * 700), ("a.txt", b"one"), ("b.png", b"q" * 512), ("b.txt", b"two"))


def tar(files: Files, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as written:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            written.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """A stream that gives less than it is asked for, and neither seeks nor tells."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise AssertionError

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= 1 << 20
        return self._data.read(min(size, 300))


KINDS: dict[str, Callable[[bytes], BinaryIO]] = {
    "disk": io.BytesIO,
    "pipe": lambda data: cast("BinaryIO", Pipe(data)),
    "gzip": lambda data: cast("BinaryIO", gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data)))),
}


def read(file: BinaryIO, *wanted: str) -> tuple[list[TarSample], list[Fault]]:
    faults: list[Fault] = []
    return list(tar_samples(file, "s.tar", wanted=wanted, report=faults.append)), faults


def contents(samples: Sequence[TarSample], whole: bytes) -> list[tuple[str, bytes]]:
    """Names and bytes at the extents."""
    return [
        (f"{sample.key}.{extension}", whole[offset : offset + size])
        for sample in samples
        for extension, (offset, size) in sample.extents.items()
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_files_come_with_their_extents_and_the_wanted_contents(kind: str, form: int) -> None:
    files = [*PAIRS, ("d/" * 45 + "犬.JPG", b""), ("big.json", bytes(3 << 20)), ("e.f.txt", b"x")]
    whole = tar([*files, ("README", b"y"), ("__meta__/m.txt", b"z")], form)
    samples, faults = read(KINDS[kind](whole), "txt", "json")
    assert not faults
    assert [sample.key for sample in samples] == ["a", "b", "d/" * 45 + "犬", "big", "e"]
    assert contents(samples, whole) == [(name.replace("JPG", "jpg"), content) for name, content in files]
    assert [sample.data for sample in samples] == [
        {"txt": b"one"},
        {"txt": b"two"},
        {},
        {"json": bytes(3 << 20)},
        {},
    ]
    assert [*samples[-1].extents] == ["f.txt"]


@pytest.mark.parametrize("kind", KINDS)
def test_of_what_is_there_twice_the_first_is_kept(kind: str) -> None:
    files = [*PAIRS[:2], ("a.txt", b"again"), *PAIRS[2:], ("a.json", b"late"), ("a.txt", b"late"), ("c.txt", b"c")]
    whole = tar(files)
    samples, faults = read(KINDS[kind](whole), "txt")
    assert contents(samples, whole) == [*PAIRS, ("c.txt", b"c")]
    assert [sample.data["txt"] for sample in samples] == [b"one", b"two", b"c"]
    assert [(fault.kind, fault.place) for fault in faults] == [
        ("duplicate_key", "s.tar: a.txt"),
        ("duplicate_key", "s.tar: a"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_a_tar_is_cut_the_files_before_come(kind: str) -> None:
    whole = tar(PAIRS)
    ends = [offset + size for sample in read(io.BytesIO(whole))[0] for offset, size in sample.extents.values()]
    assert ends == [1212, 2051, 3584, 4099]
    for cut in sorted({0, 1, 511, 512, 513, *(end + d for end in ends for d in (-1, 0, 1, 511, 513))}):
        samples, faults = read(KINDS[kind](whole[:cut]), "txt")
        assert contents(samples, whole) == list(PAIRS[: sum(end <= cut for end in ends)]), cut
        # Between two files a cut cannot be told from a tar without an end.
        at_an_end = cut % 512 == 0 and cut in {-(-end // 512) * 512 for end in ends}
        assert [fault.kind for fault in faults] == ([] if at_an_end else ["damaged_shard"]), cut
        assert all(fault.reason.endswith("): fetch it again") for fault in faults)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_header_ends_the_shard(kind: str) -> None:
    whole = tar(PAIRS)
    start = whole.index(b"b.png")
    for damage in (b"\xff" * 200, b"c"):
        data = whole[:start] + damage + whole[start + len(damage) :]
        samples, faults = read(KINDS[kind](data))
        assert [sample.key for sample in samples] == ["a"]
        assert [fault.kind for fault in faults] == ["damaged_shard"]


def header(name: bytes, size: int, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header with a right checksum, whatever it says."""
    info = tarfile.TarInfo("x")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[: len(name)] = name
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    block[156:157] = kind
    for place, value in fields.items():
        block[int(place[1:]) : int(place[1:]) + len(value)] = value
    block[148:156] = b"%06o\0 " % (256 + sum(block) - sum(block[148:156]))
    return bytes(block)


@pytest.mark.parametrize("kind", KINDS)
def test_headers_that_lie(kind: str) -> None:
    good = tar(PAIRS[:2])[:2560]
    bad = {
        "beyond the end": header(b"b.txt", 2**60),
        "backwards": header(b"b.txt", -1024),
        "far back": header(b"b.txt", -(2**60)),
        "a directory of negative size": header(b"b/", -1024, b"5"),
        "an extended header of negative size": header(b"b", -1024, b"x"),
        "a name of all memory": header(b"b", 2**60, b"L"),
        "a name of a whole chunk": header(b"b", 2**20, b"L"),
        "an extended header of all memory": header(b"b", 2**60, b"x"),
        "an extended header of no length": header(b"b", 512, b"x") + b"0 path=a\n".ljust(512, b"\0"),
        "a charset that is none": header(b"b", 512, b"x") + b"20 hdrcharset=\xff\xff\n".ljust(512, b"\0"),
        "a sparse map that is none": header(b"b", 512, b"x") + b"22 GNU.sparse.map=a,b\n".ljust(512, b"\0") + good,
        "a sparse file cut short": header(b"b.txt", 0, b"S", _482=b"\1"),
        "a name and no file": header(b"b", 512, b"L") + bytes(512),
        "names of names": header(b"b", 0, b"L") * 3000,
    }
    for what, block in bad.items():
        samples, faults = read(KINDS[kind](good + block), "txt")
        assert contents(samples, good) == list(PAIRS[:2]), what
        assert [fault.kind for fault in faults] == ["damaged_shard"], what
        assert "\n" not in faults[0].reason


def test_a_damaged_gzip_gives_what_inflates_before_it() -> None:
    noise = [(f"{number}.png", os.urandom(5000)) for number in range(40)]
    whole = tar(noise)
    packed = gzip.compress(whole)
    for data, least in ((packed[:-30], 38), (packed[: len(packed) // 2], 18), (b"no gzip" * 50, 0)):
        samples, faults = read(cast("BinaryIO", gzip.GzipFile(fileobj=io.BytesIO(data))))
        assert len(samples) >= least
        assert contents(samples, whole) == noise[: len(samples)]
        assert [fault.kind for fault in faults] == ["bad_gzip"]
    wrong = bytearray(packed)
    wrong[-8] ^= 1  # the checksum at the very end
    samples, faults = read(cast("BinaryIO", gzip.GzipFile(fileobj=io.BytesIO(wrong))))
    assert len(samples) == 40
    assert [fault.kind for fault in faults] == ["bad_gzip"]


def test_a_pipe_of_the_system(tmp_path: Path) -> None:
    whole = tar(PAIRS)
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as target:
            target.write(whole)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as source:
        samples, faults = read(source, "txt", "png")
    thread.join()
    assert [content for sample in samples for content in sample.data.values()] == [content for _, content in PAIRS]
    assert not faults


def test_what_is_not_wanted_is_not_read(tmp_path: Path) -> None:
    class Counting(io.FileIO):
        total = 0

        def readinto(self, buffer: Any) -> int | None:
            count = super().readinto(buffer)
            self.total += count or 0
            return count

    (tmp_path / "s.tar").write_bytes(tar([("a.png", bytes(5 << 20)), ("a.txt", b"x")]))
    raw = Counting(tmp_path / "s.tar")
    with io.BufferedReader(raw) as file:
        assert read(file, "txt")[0][0].data == {"txt": b"x"}
    assert raw.total < 100_000


def test_odd_names_are_told_in_one_line() -> None:
    assert [printable(name) for name in ("犬/a b", "a\nb", "\udcff")] == ["犬/a b", r"a\nb", r"\udcff"]
    _, faults = read(io.BytesIO(tar([("a\nb.txt", b"1"), ("a\nb.txt", b"2")])))
    assert faults[0].place == r"s.tar: a\nb.txt"
