"""A corpus with every fault trains to the end, with exact counts."""

import gzip
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.fault_summary import FaultSummary
from datamodules.fault_tally import SHARD_FAULTS
from datamodules.sources import FaultKind, PairSource, UnreadableSample
from protoclip.seeds import derive_seed
from tests.conftest import Compose
from tests.datamodules.test_shards import write_tar
from tests.tiny import Built, build

PER_SHARD = 25
WHEN_READ: dict[int, FaultKind] = {
    **dict.fromkeys((7, 90, 171), "unreadable_image"),
    **dict.fromkeys((33, 120, 205), "bad_json"),
    **dict.fromkeys((41, 152, 230), "bad_text"),
}
"""What is wrong with pairs that only reading them shows, by number."""
LACKING = {12: "picture", 61: "captions", 199: "picture"}
TWICE = (20, 101, 222)
"""Each comes again behind the second pair after it."""


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()[:60] if WHEN_READ.get(number) == "unreadable_image" else buffer.getvalue()


def captions(number: int) -> bytes:
    kind = WHEN_READ.get(number)
    if kind == "bad_json":
        return [b"{", b"[]", b'{"caption": 1}'][number % 3]
    return json.dumps({"caption": " " if kind == "bad_text" else f"picture number {number}"}).encode()


def members(number: int) -> list[tuple[str, bytes]]:
    files = {"picture": (f"{number:03}.png", picture(number)), "captions": (f"{number:03}.json", captions(number))}
    return [file for part, file in files.items() if LACKING.get(number) != part]


def write_shards(folder: Path) -> str:
    """Thirteen shards, and the pattern of them: one is missing, one is cut, the last one's gzip is damaged."""
    for shard in range(12):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        again = {number + 2: number for number in TWICE}
        order = [known for number in numbers for known in (number, again.get(number)) if known is not None]
        files = [file for number in order for file in members(number)]
        path = write_tar(folder / f"s-{shard:02}.tar", files)
        if shard == 10:
            data = path.read_bytes()
            path.write_bytes(data[: data.index(b"260.png") + 40])  # pairs 250 to 259 are left
        if shard == 11:
            (folder / "s-11.tar.gz").write_bytes(gzip.compress(path.read_bytes())[:-4])  # and all of these
            path.unlink()
    return f"'{folder}/s-{{00..10}}.tar','{folder}/s-11.tar.gz','{folder}/s-12.tar'"


def write_manifest(folder: Path) -> Path:
    rows = []
    for number in range(300):
        name = f"{number:03}.png"
        if LACKING.get(number) != "picture":
            (folder / name).write_bytes(picture(number))
        if LACKING.get(number) != "captions":
            rows.append({"filepath": name, "title": f"picture number {number}"})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "pairs.jsonl"


def wrong(source: PairSource) -> dict[int, FaultKind]:
    """What is wrong with pairs, by index."""
    found: dict[int, FaultKind] = {}
    for index in range(len(source)):
        try:
            source.image(index)
            source.captions(index)
        except UnreadableSample as error:
            found[index] = error.kind
    return found


def train(compose_tiny: Compose, method: str, source: str, caplog: pytest.LogCaptureFixture) -> Counter[FaultKind]:
    """Train two episodes of all pairs but a few; what was wrong in their places."""
    words = ["~data.train", f"+data.train={{{source}}}", "episode.size=120", "batch_size=24", "run.episodes=2"]
    if method == "protoclip":
        words.append("prototype.warmup_episodes=0")
    with caplog.at_level(logging.WARNING):
        run: Built = build(compose_tiny(method, *words))
        kinds = wrong(run.datamodule.train)
        run.fit()
    assert any(isinstance(callback, FaultSummary) for callback in run.callbacks)
    plan = run.datamodule.plan
    passes = 2 if method == "protoclip" else 1  # extraction, then training
    places = [Counter(kinds[i] for i in plan.indices(block).tolist() if i in kinds) for block in range(2)]
    so_far = 0
    for episode, counts in enumerate(places):
        so_far += passes * counts.total()
        told = f"episode {episode}: {passes * counts.total()} faults passed over ("
        assert (told in caplog.text) == (counts.total() > 0)
        assert (f"; {so_far} so far" in caplog.text) == (so_far > 0)
    expected = places[0] + places[1]
    assert run.datamodule.faults == {kind: passes * number for kind, number in expected.items()}
    return expected


@pytest.mark.parametrize("method", ["clip", "protoclip"])
def test_shards_with_every_fault(
    compose_tiny: Compose, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = (
        f"_target_: datamodules.shards.ShardPairs, shards: [{write_shards(tmp_path)}], max_faults: 0.25, "
        f"caption_keys: [txt,'json:caption'], cache_dir: {tmp_path / 'cache'}"
    )
    datamodule = build(compose_tiny(method, "~data.train", f"+data.train={{{source}}}")).datamodule
    assert datamodule.train.faults == {
        "missing_shard": 1,
        "damaged_shard": 1,
        "bad_gzip": 1,
        "duplicate_key": len(TWICE),
        "missing_part": len(LACKING),
    }
    assert len(datamodule.train) == 300 - len(LACKING) - 15
    assert Counter(wrong(datamodule.train).values()) == Counter(WHEN_READ.values())
    assert train(compose_tiny, method, source, caplog).keys() == set(WHEN_READ.values())


@pytest.mark.parametrize("method", ["clip", "protoclip"])
def test_a_manifest_with_every_fault(
    compose_tiny: Compose, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = f"_target_: datamodules.manifests.ManifestPairs, path: {write_manifest(tmp_path)}"
    assert train(compose_tiny, method, source, caplog).keys() == {"missing_file", "unreadable_image"}


SHARDS = 13
LANES = 4
EPISODES = 4


def contents(shard: int) -> list[FaultKind | None]:
    """What a reader meets in a shard, in order: its faults, and None for a pair."""
    if shard == 12:
        return ["missing_shard"]
    numbers = range(shard * PER_SHARD, 260 if shard == 10 else (shard + 1) * PER_SHARD)
    met: list[FaultKind | None] = []
    for number in numbers:
        met.append("missing_part" if number in LACKING else WHEN_READ.get(number))
        if number - 2 in TWICE:
            met.append("duplicate_key")
    ends: dict[int, FaultKind] = {10: "damaged_shard", 11: "bad_gzip"}
    return [*met, ends[shard]] if shard in ends else met


def lane_contents(lane: int, seed: int) -> Iterator[FaultKind | None]:
    """What a lane meets in one pass after the other, each over its share of the shards in the seed's order."""
    for number in count():
        order = np.random.default_rng(derive_seed(seed, "shards", number)).permutation(SHARDS)
        for shard in order[lane::LANES].tolist():
            yield from contents(shard)


def met_by_episode(seed: int, size: int) -> list[Counter[FaultKind]]:
    """Faults of each episode: those before the last of each lane's pairs, which are a quarter of the episode's."""
    lanes = [lane_contents(lane, seed) for lane in range(LANES)]
    episodes = []
    for _ in range(EPISODES):
        met = Counter[FaultKind]()
        for lane in lanes:
            pairs = 0
            while pairs < size // LANES:
                kind = next(lane)
                pairs += kind is None
                met.update([] if kind is None else [kind])
        episodes.append(met)
    return episodes


@pytest.mark.parametrize(("method", "passes", "workers"), [("clip", 1, 0), ("protoclip", 2, 2)])
def test_a_stream_with_every_fault(
    compose_tiny: Compose, method: str, passes: int, workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = (
        f"_target_: datamodules.streams.ShardStream, shards: [{write_shards(tmp_path)}], lanes: {LANES}, shuffle: 9, "
        "caption_keys: [txt,'json:caption']"
    )
    words = ["~data.train", f"+data.train={{{source}}}", "data.max_faults=0.25", f"num_workers={workers}"]
    words += ["episode.size=120", "batch_size=32", f"run.episodes={EPISODES}"]  # training leaves 24 of the 120 out
    if method == "protoclip":
        words.append("prototype.warmup_episodes=0")
    with caplog.at_level(logging.WARNING):
        run: Built = build(compose_tiny(method, *words)).fit()
    assert run.trainer.global_step == EPISODES * 3
    episodes = met_by_episode(run.datamodule.plan.seed, 120)
    total = sum(episodes, Counter())
    assert total.keys() == {*WHEN_READ.values(), "missing_part", "duplicate_key", *SHARD_FAULTS}
    assert run.datamodule.faults == {kind: passes * number for kind, number in total.items()}
    told = re.findall(r"episode (\d): (\d+) faults passed over \(", caplog.text)
    counts = [passes * met.total() for met in episodes]
    assert told == [(str(number), str(found)) for number, found in enumerate(counts) if found]
