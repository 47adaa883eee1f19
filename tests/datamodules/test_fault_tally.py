"""Faults by kind."""

import pytest

from datamodules.fault_tally import SHARD_FAULTS, FaultTally, one_line
from datamodules.sources import Fault


def tally() -> FaultTally:
    found = FaultTally()
    found.add(Fault("duplicate_key", "s.tar: a", "there twice: write it again"))
    found.add(Fault("bad_gzip", "s.tar.gz", "cut: fetch it again"))
    found.add(Fault("duplicate_key", "s.tar: b", "another"), 3)
    return found


def test_kinds_are_counted_with_the_first_of_each(caplog: pytest.LogCaptureFixture) -> None:
    found = FaultTally.from_json(tally().to_json())
    assert found.counts == {"duplicate_key": 4, "bad_gzip": 1}
    found.tell("corpus")
    assert [record.getMessage() for record in caplog.records] == [
        "corpus: 4 duplicate_key, the first: s.tar: a: there twice: write it again",
        "corpus: 1 bad_gzip, the first: s.tar.gz: cut: fetch it again",
    ]


def test_too_many_of_the_kinds_are_an_error() -> None:
    tally().check(["duplicate_key", "missing_part"], 8, "samples", 0.5)
    tally().check(["missing_part"], 0, "samples", 0)
    with pytest.raises(ValueError, match=r"^4 of 7 samples .* because of s\.tar: a: .*or raise data\.max_faults=0\.5$"):
        tally().check(["duplicate_key", "missing_part"], 7, "samples", 0.5)
    with pytest.raises(ValueError, match=r"^1 of 9 shards .* because of s\.tar\.gz: cut"):
        tally().check(SHARD_FAULTS, 9, "shards", 0.1)


def test_a_place_is_told_once() -> None:
    assert one_line(Fault("bad_text", "s: a", "s: a: blank: fill it in")) == "s: a: blank: fill it in"
