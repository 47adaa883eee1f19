from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.shards import ShardPairs
from datamodules.sources import CURSOR_WIDTH, Cursor, Fault, LaneReader, PairStream
from datamodules.streams import MixedStreams, ShardStream
from protoclip.caches import key_number
from tests.datamodules.test_shards import Member, pair, picture, write_tar
from tests.streams import write_corpus

SIZES = (3, 1, 4, 2)
OTHERS: Sequence[dict[str, Any]] = (
    {"lanes": 2},
    {"lanes": 1, "shuffle": 7},
    {"lanes": 1, "caption_keys": ["json:caption"]},
)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Four shards of three, one, four and two pairs."""
    for number, size in enumerate(SIZES):
        pairs = [member for place in range(size) for member in pair(f"{number}{place}", 10 * number + place)]
        write_tar(tmp_path / f"{number}.tar", pairs)
    return str(tmp_path / "*.tar")


def begin(stream: PairStream) -> Cursor:
    return np.zeros((stream.sources, CURSOR_WIDTH), np.int64)


def reader(stream: PairStream, lane: int = 0, cursor: Cursor | None = None, seed: int = 0) -> LaneReader:
    def refuse(fault: Fault) -> None:
        raise AssertionError(fault)

    return stream.reader(lane, begin(stream) if cursor is None else cursor, seed, refuse)


def keys(reading: LaneReader, count: int) -> list[str]:
    return [reading.read().key for _ in range(count)]


def test_each_pass_has_every_pair_of_the_index_once_in_another_order(shards: str, tmp_path: Path) -> None:
    indexed = ShardPairs(shards, cache_dir=tmp_path / "cache")
    reading = reader(ShardStream(shards, lanes=1))
    passes = [keys(reading, sum(SIZES)) for _ in range(3)]
    for names in passes:
        assert Counter(names) == Counter(indexed.key(index) for index in range(len(indexed)))
    assert len({tuple(names) for names in passes}) == 3
    assert keys(reader(ShardStream(shards, lanes=1), seed=1), sum(SIZES)) not in passes


def test_a_pair_is_what_the_index_gives(shards: str, tmp_path: Path) -> None:
    indexed = ShardPairs(shards, cache_dir=tmp_path / "cache")
    places = {indexed.key(index): index for index in range(len(indexed))}
    found = reader(ShardStream(shards, lanes=1)).read()
    assert found.captions == indexed.captions(places[found.key])
    assert found.picture == picture(int(found.key[-2:-1]) * 10 + int(found.key[-1]))
    assert found.index == key_number(found.key)


def test_lanes_share_each_pass(shards: str) -> None:
    stream = ShardStream(shards, lanes=2)
    readings = [reader(stream, lane) for lane in range(2)]
    order = np.random.default_rng(0)
    found: Counter[str] = Counter()
    while any(reading.cursor[0, 0] == 0 for reading in readings):  # the cursor moves on with the next pair
        reading = readings[int(order.integers(2))]
        key = reading.read().key
        if reading.cursor[0, 0] == 0:
            found[key] += 1
    assert len(found) == sum(SIZES)
    assert set(found.values()) == {1}


@pytest.mark.parametrize("after", range(2 * sum(SIZES)))
def test_a_lane_goes_on_from_its_cursor(shards: str, after: int) -> None:
    stream = ShardStream(shards, lanes=1)
    whole = reader(stream)
    keys(whole, after)
    cursor = whole.cursor.copy()
    assert cursor[0, 3] == after
    assert keys(reader(stream, cursor=cursor), 7) == keys(whole, 7)


def faulty(folder: Path) -> tuple[str, dict[str, str]]:
    """A shard with every fault of a sample, and more shards with those of shards; what is told, by place."""
    members: Sequence[Member] = [
        *pair("a", 1),
        ("b.png", picture(2)),
        *pair("c", 3, " \n"),
        *pair("a", 4),
        ("d.txt", b"no picture"),
        *pair("e", 5),
    ]
    write_tar(folder / "0.tar", members)
    cut = write_tar(folder / "1.tar", [*pair("f", 6), *pair("g", 7)])
    cut.write_bytes(cut.read_bytes()[: 512 + 512 + 512 + 512 + 512 + 10])
    inflated = write_tar(folder / "2.tar.gz", [*pair("h", 8), *pair("i", 9)])
    inflated.write_bytes(inflated.read_bytes()[:-60])
    told = {
        "0.tar: b": "missing_part",
        "0.tar: c": "bad_text",
        "0.tar: a": "duplicate_key",
        "0.tar: d": "missing_part",
        "1.tar": "damaged_shard",
        "2.tar.gz": "bad_gzip",
        "2.tar.gz: i": "missing_part",  # its text is behind the damage
        "3.tar": "missing_shard",
    }
    return str(folder / "{0.tar,1.tar,2.tar.gz,3.tar}"), told


def test_what_cannot_be_used_is_told_and_passed_over(tmp_path: Path) -> None:
    shards, expected = faulty(tmp_path)
    stream = ShardStream(shards, lanes=1)
    faults: list[Fault] = []
    reading = stream.reader(0, begin(stream), 0, faults.append)
    found: list[str] = []
    while reading.cursor[0, 0] == 0:
        found.append(reading.read().key)
    assert {"0.tar: a", "0.tar: e", "1.tar: f"} <= set(found)
    assert {fault.place: fault.kind for fault in faults} == expected
    assert all("\n" not in fault.reason for fault in faults)


def test_what_lies_before_the_cursor_is_not_told_again(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.png", picture(0)), *pair("b", 1), ("c.png", picture(2)), *pair("d", 3)])
    stream = ShardStream(str(tmp_path / "0.tar"), lanes=1)
    first: list[Fault] = []
    reading = stream.reader(0, begin(stream), 0, first.append)
    assert keys(reading, 1) == ["0.tar: b"]
    second: list[Fault] = []
    assert keys(stream.reader(0, reading.cursor, 0, second.append), 1) == ["0.tar: d"]
    assert [[fault.place for fault in faults] for faults in (first, second)] == [["0.tar: a"], ["0.tar: c"]]


def test_shards_without_a_pair_are_an_error_and_not_a_search_without_end(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.png", picture(0))])
    stream = ShardStream(str(tmp_path / "0.tar"), lanes=1)
    with pytest.raises(ValueError, match=r"no pair of 1 shards could be read, such as .*0\.tar"):
        stream.reader(0, begin(stream), 0, lambda _: None).read()


def test_fewer_shards_than_lanes(shards: str) -> None:
    with pytest.raises(ValueError, match=r"4 shards cannot be dealt out to 5 lanes: set data\.train\.lanes=4 or less"):
        ShardStream(shards, lanes=5)


def test_captions_of_json_and_their_order(tmp_path: Path) -> None:
    member = ("a.json", b'{"caption": "of json"}')
    write_tar(tmp_path / "0.tar", [("a.png", picture(0)), member, *pair("b", 1, "of text")])
    stream = ShardStream(str(tmp_path / "0.tar"), lanes=1, caption_keys=["txt", "json:caption"])
    reading = reader(stream)
    assert [list(reading.read().captions) for _ in range(2)] == [["of json"], ["of text"]]


def test_streams_in_fixed_shares(shards: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_tar(tmp_path / "other" / "x.tar", [*pair("x", 50), *pair("y", 51)])
    streams = {"many": ShardStream(shards, lanes=1), "few": ShardStream(str(tmp_path / "other" / "x.tar"), lanes=1)}
    mix = MixedStreams(streams, {"many": 3, "few": 1})
    reading = reader(mix)
    for _ in range(5):
        names = keys(reading, 4)
        assert Counter(name.split(":")[0] for name in names) == {"many": 3, "few": 1}
    cursor = reading.cursor.copy()
    assert cursor[:, 3].tolist() == [15, 5]
    assert keys(reader(mix, cursor=cursor), 9) == keys(reading, 9)


def test_mixes_that_are_none(shards: str) -> None:
    one, two = ShardStream(shards, lanes=1), ShardStream(shards, lanes=2)
    with pytest.raises(ValueError, match=r"a mix of no stream: name one or more in data\.streams"):
        MixedStreams({})
    with pytest.raises(ValueError, match="give one for each stream"):
        MixedStreams({"one": one}, {"other": 1})
    with pytest.raises(ValueError, match=r"streams of \[1, 2\] lanes cannot be mixed"):
        MixedStreams({"one": one, "two": two})


def test_fingerprints_tell_whatever_decides_what_is_read(shards: str, tmp_path: Path) -> None:
    one = ShardStream(shards, lanes=1)
    (tmp_path / "moved").mkdir()
    elsewhere = [str(file.rename(tmp_path / "moved" / file.name)) for file in sorted(tmp_path.glob("*.tar"))]
    assert one.fingerprint == ShardStream(elsewhere, lanes=1).fingerprint
    others = [ShardStream(elsewhere, **options) for options in OTHERS]
    mixes = [MixedStreams({"a": one, "b": one}, {"a": 1, "b": weight}) for weight in (1, 2)]
    assert len({stream.fingerprint for stream in (one, *others, *mixes)}) == 1 + len(OTHERS) + 2


def test_a_lane_that_is_at_a_shards_end_goes_on(tmp_path: Path) -> None:
    """Where each lane has one shard a pass, every one that it comes back to gives nothing more."""
    stream = ShardStream(write_corpus(tmp_path, pairs=8, shards=4), lanes=4)
    for lane in range(4):
        whole = reader(stream, lane)
        cursor = begin(stream)
        for _ in range(6):
            going_on = reader(stream, lane, cursor)
            assert keys(going_on, 1) == keys(whole, 1)
            cursor = going_on.cursor.copy()


@pytest.mark.parametrize("seed", range(4))
def test_missing_shards_that_fall_to_one_lane_do_not_stop_it(tmp_path: Path, seed: int) -> None:
    write_corpus(tmp_path, pairs=8, shards=4)
    (tmp_path / "001.tar").unlink()
    stream = ShardStream(f"{tmp_path}/{{000..003}}.tar", lanes=4)
    for lane in range(4):
        reading = stream.reader(lane, begin(stream), seed, lambda _: None)
        assert len({key.split(":")[0] for key in keys(reading, 24)}) == 3


def test_two_shards_of_one_name(tmp_path: Path) -> None:
    for folder in ("p", "q"):
        write_corpus(tmp_path / folder, pairs=2, shards=2)
    with pytest.raises(ValueError, match=r"^2 shards are called 000\.tar, and their pairs alike: rename them, or mix"):
        ShardStream(f"{tmp_path}/*/*.tar", lanes=1)


def test_keys_are_called_as_the_index_calls_them(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "k.tar", pair("caf\udce9", 0))
    indexed = ShardPairs(path, cache_dir=tmp_path / "cache")
    assert reader(ShardStream(path, lanes=1)).read().key == indexed.key(0)
