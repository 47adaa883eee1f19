"""Damaged files of every kind: no crash, no hang, and nothing is lost without a word where that can be known."""

import io
import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.manifests import ManifestPairs
from datamodules.pictures import decode_picture
from datamodules.shards import ShardPairs
from datamodules.sources import Fault, PairSource, UnreadableSample
from datamodules.tars import TarSample, tar_samples
from datamodules.urls import open_shard
from protoclip.runs import now
from tests.fuzzed import NUMBERS, WHOLE, Fuzzed, caption, fuzzed, headers, picture

MANIFESTS = ("csv", "tsv", "jsonl", "parquet")
SECONDS = 10
"""After which a case hangs."""
PIXELS = [np.asarray(decode_picture(picture(number), "whole")).tobytes() for number in NUMBERS]
Read = list[tuple[str, list[str]]]


class Hang(BaseException):
    """Not an Exception, which code under test might take for damage."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise Hang after some seconds."""

    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_line(error: ValueError, name: str) -> str:
    """An error's message, checked."""
    message = str(error)
    assert "\n" not in message
    assert name in message
    return message


def read(source: PairSource, name: str) -> list[tuple[bytes, list[str]] | str]:
    """Every sample, or why it cannot be read."""
    found: list[tuple[bytes, list[str]] | str] = []
    for index in range(len(source)):
        try:
            captions = list(source.captions(index))
            found.append((np.asarray(source.image(index)).tobytes(), captions))
        except UnreadableSample as error:
            found.append(one_line(error, name))
    return found


def ends() -> list[int]:
    """Where the samples of the tar end, without the padding."""
    samples = tar_samples(io.BytesIO(WHOLE["tar"]), "whole", report=lambda _: None)
    return [max(map(sum, sample.extents.values())) for sample in samples]


ENDS = ends()
PAYLOADS = [
    extent
    for sample in tar_samples(io.BytesIO(WHOLE["tar"]), "whole", report=lambda _: None)
    for extent in sample.extents.values()
]
HEADERS = headers(WHOLE["tar"])
SAMPLES: list[tuple[bytes, list[str]]] = [(PIXELS[number], [caption(number)]) for number in NUMBERS]


def check_shard(case: Fuzzed, path: Path) -> str:
    """What a damaged shard gives, indexed and streamed."""
    faults: list[Fault] = []
    with open_shard(str(path)) as file:
        streamed = list(tar_samples(file, path.name, report=faults.append))
    assert all("\n" not in f"{fault.place}{fault.reason}" for fault in faults)
    kinds = Counter(fault.kind for fault in faults)
    assert kinds["damaged_shard"] + kinds["bad_gzip"] <= 1
    try:
        source = ShardPairs(path, max_faults=1)
    except ValueError as error:
        assert not complete(streamed)
        return one_line(error, path.name)
    if case.name.endswith(".tar"):
        assert len(source) == complete(streamed)
        assert {kind: number for kind, number in source.faults.items() if kind != "missing_part"} == kinds
    found = read(source, path.name)
    account(case, found, kinds)
    usable = sum(isinstance(one, tuple) for one in found)
    unreadable = {"unreadable": len(found) - usable} if usable < len(found) else {}
    return f"{usable} samples, {dict(source.faults) | unreadable}"


def complete(samples: list[TarSample]) -> int:
    """Samples with a picture and a caption."""
    return sum(all(sample.extents.get(kind, (0, 0))[1] > 0 for kind in ("png", "txt")) for sample in samples)


def account(case: Fuzzed, found: list[tuple[bytes, list[str]] | str], kinds: Counter[Any]) -> None:
    """Nothing is lost without a word, where that can be known."""
    if case.name.endswith(".gz"):
        assert found == SAMPLES or kinds, "lost"
        return
    before = sum(end <= case.at for end in ENDS)
    assert found[:before] == SAMPLES[:before], "what is before the damage"
    if case.damage == "cut" and case.at % 512:  # at a block's end it may look like a tar without its end
        assert kinds["damaged_shard"] == (case.at < -(-ENDS[-1] // 512) * 512 + 512), "the cut is told"
    if case.damage == "flip":
        changed = [place for place, (one, other) in enumerate(zip(case.data, case.whole, strict=True)) if one != other]
        if all(any(start <= place < start + size for start, size in PAYLOADS) for place in changed):
            hit = {sum(end <= place for end in ENDS) for place in changed}
            assert not kinds
            assert len(found) == len(SAMPLES)
            assert all(found[number] == SAMPLES[number] for number in NUMBERS if number not in hit)
        elif len(changed) == 1 and any(start <= changed[0] < start + 512 for start in HEADERS):
            assert kinds or found == SAMPLES, "a damaged header is told"


def check_manifest(case: Fuzzed, path: Path) -> str:
    """What a damaged manifest gives."""
    try:
        source = ManifestPairs(path)
    except ValueError as error:
        return one_line(error, path.name)
    captions = [source.captions(index) for index in range(len(source))]
    assert all(captions)
    if case.damage == "cut" and path.suffix == ".jsonl":
        lines = WHOLE["jsonl"][: case.at].count(b"\n")
        assert captions[:lines] == [[caption(number)] for number in range(lines)]
    for index in range(len(source)):
        with pytest.raises(UnreadableSample, match="cannot read"):
            source.image(index)
    return f"{len(source)} samples, {source.faults}"


def check_picture(case: Fuzzed, path: Path) -> str:
    """What a damaged picture gives."""
    try:
        decoded = decode_picture(path.read_bytes(), path.name)
    except UnreadableSample as error:
        return one_line(error, path.name)
    assert decoded.dtype == torch.uint8
    channels, height, width = decoded.shape
    assert channels == 3
    assert min(height, width) >= 1
    return f"a picture of {width} x {height}"


def outcome(line: str) -> str:
    """What a line says in short: how the file ended up, without its numbers."""
    if line.startswith("a picture"):
        return "decoded"
    if not re.match(r"\d+ samples", line):
        return "refused in one line"
    return "read, with faults told" if "': " in line else "read, nothing told"


def told(case: Fuzzed, folder: Path) -> str:
    """What is said of a damaged file, checked."""
    path = folder / case.name
    path.write_bytes(case.data)
    ending = case.name.partition(".")[2]
    check = check_shard if "tar" in ending else check_manifest if ending in MANIFESTS else check_picture
    try:
        with bounded():
            return check(case, path)
    except (Exception, Hang) as error:
        kept = Path(os.environ.get("PROTOCLIP_DAMAGE_KEEP", folder)) / f"failed-{case.name}"
        kept.write_bytes(case.data)
        raise AssertionError(f"{case}: {error!r}; kept in {kept}") from error
    finally:
        for file in folder.iterdir():
            if not file.name.startswith("failed-"):
                file.unlink()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path))


def test_a_hundred(tmp_path: Path) -> None:
    for case in fuzzed(0, 100):
        told(case, tmp_path)


@pytest.mark.slow
def test_ten_thousand(tmp_path: Path) -> None:
    start, slowest, lines, outcomes = time.perf_counter(), 0.0, [], defaultdict[str, Counter[str]](Counter)
    for case in fuzzed(1, 10_000):
        begun = time.perf_counter()
        line = told(case, tmp_path).replace(str(tmp_path), "FOLDER")
        slowest = max(slowest, time.perf_counter() - begun)
        outcomes[case.name.partition(".")[2]][outcome(line)] += 1
        lines.append(f"{case}\n    {line}\n")
    seconds = f"{time.perf_counter() - start:.0f} s, the slowest {slowest:.2f} s"
    summary = [f"{now()}: {len(lines)} damaged files, {seconds}; none crashed or hung\n"]
    for kind, counts in sorted(outcomes.items(), key=lambda item: -item[1].total()):
        told_of = ", ".join(f"{number} {what}" for what, number in counts.most_common())
        summary.append(f"{counts.total()} {kind}: {told_of}\n")
    summary.append(f"every {len(lines) // 500}th of them:\n")
    log = Path(os.environ.get("PROTOCLIP_DAMAGE_LOG", tmp_path / "log"))
    log.write_text("".join([*summary, *lines[:: len(lines) // 500]]), encoding="utf-8")
