"""One corpus as a manifest, as indexed shards and as a stream: the same pairs, and runs that resume and divide."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.manifests import ManifestPairs
from datamodules.shards import ShardPairs
from datamodules.sources import PairSource, RawPair
from protoclip.caches import key_number
from protoclip.cli import train
from protoclip.cli.build import build_datamodule
from protoclip.terms import teacher_view
from tests.conftest import TINY, Compose, composed
from tests.gloo import Pool
from tests.streams import indexed, streamed, write_corpus
from tests.teachers import fill_caches
from tests.test_ddp import Seen, trained
from tests.test_resume import run, state, whole_run

DATA = os.environ.get("PROTOCLIP_DATA", "")


def as_manifest(source: ShardPairs, folder: Path) -> tuple[str, ...]:
    """Overrides that read the same pairs from a manifest of their files."""
    rows = []
    folder.mkdir()
    for index in range(len(source)):
        file = folder / f"{index:05d}.jpg"
        file.write_bytes(source.encoded(index))
        rows += [(file.name, caption) for caption in source.captions(index)]
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv(folder / "pairs.tsv", sep="\t", index=False)
    source_of_it = f"{{_target_: datamodules.manifests.ManifestPairs, path: '{folder}/pairs.tsv'}}"
    return ("~data.train", f"+data.train={source_of_it}")


def checksums(source: PairSource, indices: Iterable[int]) -> Counter[int]:
    """Of picture and captions of so many pairs, as a stream's batches have them."""
    return Counter(
        RawPair(source.key(index), source.encoded(index) or b"", source.captions(index)).checksum for index in indices
    )


@pytest.mark.skipif(not DATA, reason="needs PROTOCLIP_DATA")
def test_flickr8k_three_ways(compose_tiny: Compose, tmp_path: Path) -> None:
    shards = f"{DATA}/flickr8k/flickr8k-train-{{000..003}}.tar"
    source = ShardPairs(shards)
    every = checksums(source, range(2800))
    assert len(source) == 2800
    assert len({key_number(source.key(index)) for index in range(2800)}) == 2800
    one_pass = ("episode.size=2800", "batch_size=400", "run.episodes=1")
    ways = {"manifest": as_manifest(source, tmp_path / "files"), "indexed": indexed(shards)}
    found = {}
    for name, words in ways.items():
        seen, _ = run(compose_tiny("clip", *one_pass, "episode.draw=partition", *words, runs=tmp_path / name))
        found[name] = torch.stack(seen.losses), [index for _, _, index in seen.samples]
    assert torch.equal(found["manifest"][0], found["indexed"][0])
    assert found["manifest"][1] == found["indexed"][1]
    manifest = ManifestPairs(tmp_path / "files" / "pairs.tsv")
    assert checksums(manifest, found["manifest"][1]) == checksums(source, found["indexed"][1]) == every

    stream = build_datamodule(compose_tiny("clip", *one_pass, *streamed(shards, lanes=2, shuffle=256)))
    stream.require({"text": "text"})
    loader = stream.train_dataloader()
    for number in range(2):
        loader.sampler.set_epoch(number)  # type: ignore[union-attr]
        batches = list(loader)
        assert Counter(torch.cat([batch["checksum"] for batch in batches]).tolist()) == every
        keys = torch.cat([batch["index"] for batch in batches]).tolist()
        assert Counter(keys) == Counter(key_number(source.key(index)) for index in range(2800))


@pytest.mark.parametrize(
    ("method", "workers", "refresh_every"), [("clip", 0, 1), ("protoclip", 0, 2), ("protoclip", 2, 1)]
)
def test_a_stream_resumes_exactly(
    compose_tiny: Compose, tmp_path: Path, method: str, workers: int, refresh_every: int
) -> None:
    pattern = write_corpus(tmp_path / "corpus", broken=(3, 40))
    words = streamed(pattern, "run.episodes=4", f"episode.refresh_every={refresh_every}", "data.max_faults=0.5")
    uninterrupted = whole_run(compose_tiny(method, *words), tmp_path / "kept")
    uninterrupted.config.num_workers = workers
    for stop in (1, 3) if workers == 0 else (2,):
        uninterrupted.resumed(stop)


def of_stream(runs: Path, pattern: str, *words: str) -> Seen:
    return trained(runs, "protoclip", *streamed(pattern, "data.max_faults=0.5", *words))


def test_two_processes_follow_one(pool: Pool, tmp_path: Path) -> None:
    pattern = write_corpus(tmp_path / "corpus", broken=(3, 40))
    words = ("episode.refresh_every=2", "prototype.warmup_episodes=0")
    one = of_stream(tmp_path / "one", pattern, *words)
    first, second = pool(of_stream, tmp_path / "two", pattern, *words)
    for together, left, right in zip(one.positions, first.positions, second.positions, strict=True):
        assert sorted([*left, *right]) == sorted(together)
    means = [sum(pair) / 2 for pair in zip(first.losses, second.losses, strict=True)]
    assert means == pytest.approx(one.losses, rel=1e-9)
    for name, value in one.state.items():
        assert torch.equal(first.state[name], second.state[name]), name
        torch.testing.assert_close(first.state[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_options_that_a_stream_cannot_have(compose_tiny: Compose, tmp_path: Path) -> None:
    pattern = write_corpus(tmp_path / "corpus")
    for word, told in (
        ("episode.draw=partition", r"set episode\.replacement=false and episode\.draw=independent"),
        ("episode.replacement=true", r"set episode\.replacement=false and episode\.draw=independent"),
        ("prototype.features=recorded", r"set prototype\.features=fresh"),
    ):
        with pytest.raises(ValueError, match=told):
            run(compose_tiny("protoclip", *streamed(pattern), word, runs=tmp_path / "runs"))
    words = ("run.episodes=null", "run.epochs=2")
    with pytest.raises(ValueError, match=r"set run\.epochs=null and run\.episodes"):
        run(compose_tiny("clip", *streamed(pattern), *words, runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("made_of", [streamed, indexed], ids=["stream", "shards"])
def test_a_stream_finds_what_its_teacher_gave_by_key(
    compose_tiny: Compose, tmp_path: Path, made_of: Callable[[str], tuple[str, ...]]
) -> None:
    pattern = write_corpus(tmp_path / "corpus", broken=(3,))
    words: tuple[str, ...] = (
        "teacher=minilm",
        "teachers.minilm.dims=6",
        "distillation=affinity",
        f"teacher.cache={tmp_path}/cache",
    )
    words += ("prototype.warmup_episodes=0", "data.max_faults=0.5")
    source = build_datamodule(fill_caches(compose_tiny("protoclip", *made_of(pattern), *words)))
    cache = source.teachers["minilm"]
    places = ShardPairs(pattern, cache_dir=tmp_path / "index")
    numbers = {key_number(places.key(index)): index for index in range(len(places))}
    config = compose_tiny("protoclip", *streamed(pattern), *words, runs=tmp_path / "runs")
    for batch in build_datamodule(config).train_dataloader():
        rows = [numbers[number] for number in batch["index"].tolist()]
        first = np.cumsum([0, *(len(places.captions(index)) for index in range(len(places)))])
        expected = cache.features[first[rows] + batch["caption"].numpy()]
        assert np.array_equal(batch[teacher_view("minilm")].numpy(), expected)
    seen, last = run(config)
    assert bool(torch.isfinite(torch.stack(seen.losses)).all())
    assert "banks.minilm.image.labels" in state(last)["state_dict"]


def test_a_process_may_have_an_extraction_batch_more(pool: Pool, tmp_path: Path) -> None:
    pattern = write_corpus(tmp_path / "corpus")
    words = ("episode.size=17", "+datamodule.evaluation_batch_size=8", "prototype.warmup_episodes=0", "run.episodes=2")
    one = of_stream(tmp_path / "one", pattern, *words)
    for found in pool(of_stream, tmp_path / "two", pattern, *words):
        assert len(found.losses) == len(one.losses) == 4


def test_streams_are_mixed_by_weight(tmp_path: Path) -> None:
    words = [word for word in TINY if "num_pairs" not in word]
    words += ["method=clip", "data=mix_stream", "data.weights={many:3,few:1}", f"runs={tmp_path}"]
    for name in ("many", "few"):
        pattern = write_corpus(tmp_path / name)
        source = f"_target_:datamodules.streams.ShardStream,shards:'{pattern}',lanes:4,shuffle:5"
        words.append(f"+data.streams.{name}={{{source}}}")
    config = composed(*words)
    stream = build_datamodule(config).stream
    assert stream is not None
    source_of = {pair.index: pair.key.split(":")[0] for pair in stream.every(lambda _: None)}
    seen, _ = run(config)
    drawn = Counter((episode, source_of[index]) for episode, _, index in seen.samples)
    assert drawn == {(episode, name): share for episode in range(4) for name, share in (("many", 24), ("few", 8))}


def test_too_many_lost_shards_stop_a_run_at_the_default_share(compose_tiny: Compose, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    for number in (1, 5):
        (tmp_path / "corpus" / f"00{number}.tar").unlink()
    words = streamed(f"{tmp_path}/corpus/{{000..007}}.tar", "episode.size=32")
    with pytest.raises(
        ValueError, match=r"\d of 8 shards cannot be read whole.*not there.*raise data\.max_faults=0\.1"
    ):
        run(compose_tiny("clip", *words, runs=tmp_path / "runs"))


def test_an_episode_that_is_cut_short_has_no_next_one(compose_tiny: Compose, tmp_path: Path) -> None:
    words = streamed(write_corpus(tmp_path / "corpus"), "+trainer.limit_train_batches=1")
    with pytest.raises(ValueError, match=r"leave .*limit_train_batches out"):
        run(compose_tiny("clip", *words, runs=tmp_path / "runs"))


def test_too_few_shards_for_the_lanes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = write_corpus(tmp_path / "corpus", shards=2)
    words = ["data=stream", f"data.path='{pattern}'", "evaluation=none", f"runs={tmp_path}/runs"]
    assert train(words) == 2
    told = capsys.readouterr().err
    assert "2 shards cannot be dealt out to 8 lanes: set data.train.lanes=2 or less" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "runs").exists()
