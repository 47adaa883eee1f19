"""Bad samples do not stop a run, and are not silent: a corpus with every kind of them."""

import io
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

import conf
from datamodules.datamodule import ImageTextDataModule
from datamodules.faults import LINES, FaultCounter
from datamodules.manifests import ManifestPairs
from datamodules.shards import ShardPairs
from datamodules.sources import Fault, PairSource, UnreadableSample
from protoclip.cli.build import build_datamodule
from protoclip.messages import one_line
from tests.tiny import Batches, Built, build, tiny_config

NOISE: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
PHOTO = Image.fromarray(NOISE)
REASONS = {
    "bytes": "of no known format",
    "cut": "truncated",
    "empty": "an empty file",
    "gone": "No such file",
    "blank": "the caption is blank",
    "binary": "the text is not UTF-8",
}


def encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


PLAIN = encoded(PHOTO, "PNG")
USABLE = {
    "cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "palette": encoded(PHOTO.quantize(16), "PNG"),
    "clear": encoded(PHOTO.quantize(16), "PNG", transparency=3),
    "deep": encoded(Image.fromarray(NOISE[..., 0].astype(np.uint16) << 8), "PNG"),
    "grey": encoded(PHOTO.convert("L"), "PNG"),
    "grey-alpha": encoded(PHOTO.convert("LA"), "PNG"),
    "alpha": encoded(PHOTO.convert("RGBA"), "PNG"),
    "pixel": encoded(PHOTO.crop((0, 0, 1, 1)), "PNG"),
    "line": encoded(PHOTO.crop((0, 0, 1, 40)), "PNG"),
}
DAMAGED = {"bytes": b"\x00\xff no picture", "cut": encoded(PHOTO, "JPEG")[:-300], "empty": b"", "gone": None}
CAPTIONS = {"blank": b" \n", "binary": b"\xff\xfe\x80", "long": b"a dog runs " * 950_000}
PAIRS: dict[str, tuple[bytes | None, bytes]] = {
    **{name: (data, b"a picture of it") for name, data in (USABLE | DAMAGED).items()},
    **{name: (PLAIN, caption) for name, caption in CAPTIONS.items()},
    **{f"plain{number}": (PLAIN, b"picture number %d" % number) for number in range(24)},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    for name, (data, _) in PAIRS.items():
        if data is not None:
            (folder / name).write_bytes(data)
    rows = (name.encode() + b"\t" + caption.strip() for name, (_, caption) in PAIRS.items())
    (folder / "pairs.tsv").write_bytes(b"filepath\ttitle\n" + b"\n".join(rows))
    return folder / "pairs.tsv"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardPairs:
    folder = tmp_path_factory.mktemp("shards")
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for name, (data, caption) in PAIRS.items():
            for member, content in ((f"{name}.jpg", data), (f"{name}.txt", caption)):
                if content:
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return ShardPairs(folder / "pairs.tar", cache_dir=folder)


def reasons(source: PairSource) -> dict[int, str]:
    """Why samples of a source cannot be used, by index."""
    found = {}
    for index in range(len(source)):
        try:
            source.image(index)
            source.captions(index)
        except UnreadableSample as error:
            found[index] = str(error)
    return found


def words(manifest: Path, *more: str) -> tuple[str, ...]:
    """Overrides that put the corpus in the place of the scenes."""
    train = f"+data.train={{_target_: datamodules.manifests.ManifestPairs, path: {manifest}}}"
    return ("~data.train", train, "data.max_faults=0.5", "run.episodes=3", *more)


def told_pairs(caplog: pytest.LogCaptureFixture) -> list[int]:
    lines = (record.getMessage() for record in caplog.records if record.name == "datamodules.faults")
    return [int(line.split()[1]) for line in lines if line.startswith("pair ")]


def bad_places(datamodule: ImageTextDataModule, episodes: int) -> list[int]:
    """Unreadable pairs in the episodes' plans."""
    bad = set(reasons(datamodule.train))
    return [i for block in range(episodes) for i in datamodule.plan.indices(block).tolist() if i in bad]


def test_what_cannot_be_used_is_named_and_the_rest_is_used(manifest: Path, shards: ShardPairs) -> None:
    table = ManifestPairs(manifest)
    assert len(table) == len(PAIRS) - 2  # rows without a caption are left out of a manifest at once
    assert len(shards) == len(PAIRS) - 2  # and samples without a picture out of shards
    for source, names in ((table, ("bytes", "cut", "empty", "gone")), (shards, ("bytes", "cut", "blank", "binary"))):
        found = reasons(source)
        assert len(found) == len(names)
        for name, message in zip(names, found.values(), strict=True):
            assert name in message
            assert REASONS[name] in message
            assert "\n" not in message


@pytest.mark.parametrize("views", sorted(path.stem for path in (Path(conf.__file__).parent / "views").glob("*.yaml")))
def test_pictures_of_every_kind_go_through_every_view(manifest: Path, views: str, tmp_path: Path) -> None:
    source = ManifestPairs(manifest)
    config = tiny_config(tmp_path, "clip", f"views={views}", "towers.image_size=24")
    for view in build_datamodule(config).dataset.image_views.values():
        for index in range(len(USABLE)):
            for _ in range(4):
                assert view(source.image(index)).shape == (3, 24, 24)


def test_a_shard_that_is_gone_is_told_as_unreadable(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for member, content in (("a.jpg", PLAIN), ("a.txt", b"x")):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    source = ShardPairs(tmp_path / "s.tar", cache_dir=tmp_path)
    (tmp_path / "s.tar").unlink()
    with pytest.raises(UnreadableSample, match=r"^s\.tar: a: No such file or directory: bring the shard back$"):
        source.image(0)


def test_a_run_trains_and_counts_each_bad_pair_once(
    manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Batches()
    run = build(tiny_config(tmp_path, "protoclip", *words(manifest, "prototype.warmup_episodes=0"))).fit(seen)
    places = bad_places(run.datamodule, 3)
    assert len(set(places)) == 4
    kinds = Counter("missing_file" if "gone" in run.datamodule.train.key(i) else "unreadable_image" for i in places)
    assert run.datamodule.faults == {kind: 2 * number for kind, number in kinds.items()}  # extraction, then training
    assert sorted(told_pairs(caplog)) == sorted(set(places))
    assert caplog.text.count("is replaced: ") == 4
    replaced = torch.cat([batch["replaced"] for batch in seen.batches])
    used = torch.cat([batch["index"] for batch in seen.batches])
    assert sorted(replaced[replaced >= 0].tolist()) == sorted(places)
    assert not set(used.tolist()) & set(places)
    assert all(bool(torch.isfinite(batch["image"]).all()) for batch in seen.batches)


@pytest.mark.parametrize("source", ["manifest", "shards"])
def test_workers_give_the_same_batches(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    manifest = request.getfixturevalue("manifest")

    def batches(workers: int) -> Iterator[dict[str, Tensor]]:
        more = (f"num_workers={workers}", "data.keep_tokens=false")
        datamodule = build(tiny_config(tmp_path, "clip", *words(manifest, *more))).datamodule
        if source == "shards":
            datamodule.dataset.corpus = request.getfixturevalue("shards")
        yield from datamodule.train_dataloader()
        yield from datamodule.extraction_dataloader(0)

    here, there = list(batches(0)), list(batches(2))
    assert sum(int((batch["replaced"] >= 0).sum()) for batch in here) >= 2
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


class Stop(Callback):
    """Ends a run after its first episode."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def test_a_resumed_run_counts_on_and_tells_nothing_twice(
    manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def built(name: str) -> Built:
        return build(tiny_config(tmp_path / name, "clip", *words(manifest)))

    whole = built("whole").fit().datamodule.faults
    once = told_pairs(caplog)
    caplog.clear()
    first = built("parts").fit(Stop())
    assert 0 < sum(first.datamodule.faults.values()) < sum(whole.values())
    second = built("parts").fit(resume=first.checkpoints / "last.ckpt")
    assert second.datamodule.faults == whole
    assert told_pairs(caplog) == once


@pytest.mark.parametrize("workers", [0, 2])
def test_above_the_share_a_run_stops_in_one_line(manifest: Path, tmp_path: Path, workers: int) -> None:
    run = build(tiny_config(tmp_path, "clip", *words(manifest, "data.max_faults=0.03", f"num_workers={workers}")))
    with pytest.raises(
        ValueError, match=r"of 32 samples of episode 0 cannot be read.*raise data\.max_faults=0\.03$"
    ) as e:
        run.fit()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corpus_without_a_readable_pair_stops_in_one_line(tmp_path: Path, workers: int) -> None:
    rows = [json.dumps({"filepath": f"{number}.png", "title": "x"}) for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    run = build(tiny_config(tmp_path, "clip", *words(tmp_path / "pairs.jsonl", f"num_workers={workers}")))
    with pytest.raises(UnreadableSample) as caught:
        run.fit()
    line = one_line(caught.value)
    assert "others tried in its place cannot be read: cannot read" in line
    assert line.endswith("(No such file or directory): check the manifest or images_root")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_evaluation_picture_is_an_error_in_one_line(manifest: Path, tmp_path: Path, workers: int) -> None:
    datamodule = build(tiny_config(tmp_path, "clip", *words(manifest, f"num_workers={workers}"))).datamodule
    with pytest.raises(UnreadableSample) as caught:
        list(datamodule.evaluation_dataloader(ManifestPairs(manifest)))
    assert one_line(caught.value).endswith("bytes: not a readable picture (of no known format): replace or remove it")


class Mended(PairSource):
    """A corpus whose pair 7 stays bad; the others could be read at the second try."""

    fingerprint = "mended"

    def __len__(self) -> int:
        return 100

    def image(self, index: int) -> Image.Image:
        if index == 7:
            raise UnreadableSample("7 is broken: mend it")
        return PHOTO

    def captions(self, index: int) -> Sequence[str]:
        return ["a"]

    def label(self, index: int) -> int:
        return -1


def batch(episode: int, *replaced: int) -> dict[str, Tensor]:
    return {"episode": torch.full((len(replaced),), episode), "replaced": torch.tensor(replaced)}


def test_the_share_is_of_each_pass_over_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    counter = FaultCounter(Mended(), 0.25)
    for episode in (0, 1):
        for _ in ("extraction", "training"):
            counter.see(batch(episode, 3, -1), 4)
            counter.see(batch(episode, -1, -1), 4)
    assert counter.counts == {"unreadable_image": 4}
    assert caplog.text.count("pair 3 is replaced: it could not be read at first, and now it can") == 1
    message = (
        r"2 of 4 samples of episode 2 cannot be read, the last because of 7 is broken: mend it; .*max_faults=0\.25$"
    )
    counter.see(batch(2, 3, -1), 4)
    with pytest.raises(ValueError, match=message):
        counter.see(batch(2, -1, 7), 4)


def test_no_share_stops_at_the_first_and_all_at_none() -> None:
    with pytest.raises(ValueError, match="1 of 4 samples"):
        FaultCounter(Mended(), 0).see(batch(0, 7, -1), 4)
    FaultCounter(Mended(), 1).see(batch(0, 7, 7, 7, 7), 4)
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"data\.max_faults=.*: give a share between 0 and 1"):
            FaultCounter(Mended(), share)


def test_the_state_is_plain(caplog: pytest.LogCaptureFixture) -> None:
    counter, resumed = FaultCounter(Mended(), 0.5), FaultCounter(Mended(), 0.5)
    counter.see(batch(0, 7, 7, -1, -1), 4)
    state = counter.state_dict()
    assert state == {"pairs": {"unreadable_image": [7]}, "samples": {"unreadable_image": 2}}
    assert json.loads(json.dumps(state)) == state
    caplog.clear()
    resumed.load_state_dict(state)
    resumed.see(batch(1, 7, -1, -1, -1), 4)
    assert resumed.counts == {"unreadable_image": 3}
    assert not caplog.records
    resumed.load_state_dict({"pairs": [7], "samples": 5})  # of an earlier version
    resumed.see(batch(2, 7, -1, -1, -1), 4)
    assert resumed.counts == {"unreadable_image": 6}
    assert not caplog.records
    resumed.load_state_dict({"pairs": [], "samples": 0})
    assert resumed.counts == {}


def test_of_each_kind_some_are_told(caplog: pytest.LogCaptureFixture) -> None:
    counter = FaultCounter(Mended(), 1)
    for episode in range(2):
        counter.see(batch(episode, *range(30)), 30)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == LINES + 1
    assert told[-1] == "more faults of kind unreadable_image follow, and are only counted"
    caplog.clear()
    resumed = FaultCounter(Mended(), 1)
    resumed.load_state_dict(counter.state_dict())
    resumed.see(batch(2, *range(40)), 40)
    assert resumed.counts == {"unreadable_image": 100}
    assert not caplog.records


def test_faults_of_a_stream_are_counted_and_stop_at_the_next_batch(caplog: pytest.LogCaptureFixture) -> None:
    counter = FaultCounter(Mended(), 0.5)
    twice = Fault("duplicate_key", "s.tar: a", "there twice: write the shard again")
    counter.see_faults([twice, Fault("bad_json", "s.tar: b", "cut: write it again")])
    counter.see(batch(0, -1, -1), 4)
    counter.see_faults([twice])  # read again for the next episode
    counter.see(batch(1, -1, -1, -1, -1), 4)
    assert counter.counts == {"duplicate_key": 2, "bad_json": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "passed over: s.tar: a: there twice: write the shard again",
        "passed over: s.tar: b: cut: write it again",
    ]
    counter.see_faults([twice] * 9)
    with pytest.raises(ValueError, match=r"10 of 18 samples of episode 1 .* because of s\.tar: a: .*max_faults=0\.5$"):
        counter.see(batch(1, -1), 8)


def test_the_logged_reason_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    FaultCounter(Mended(), 1).see(batch(0, 7), 4)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "pair 7 is replaced: 7 is broken: mend it")
    ]
