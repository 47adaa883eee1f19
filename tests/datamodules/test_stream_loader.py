from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import EpisodePlan
from datamodules.stream_loader import Pass, StreamLoader, Ties, check_lanes
from datamodules.streams import ShardStream
from datamodules.text_views import Caption
from datamodules.views import Augmentation
from protoclip.cli.build import build_datamodule
from protoclip.tokenizer import Tokenizer
from tests.streams import streamed, write_corpus
from tests.tiny import build, tiny_config

PAIRS = 64


def datamodule(
    pattern: str, size: int = PAIRS, *, rank: int = 0, world: int = 1, refresh_every: int = 1, **options: Any
) -> ImageTextDataModule:
    """Of a stream, as one of several processes sees it."""
    stream = {"lanes": 4, "shuffle": 5} | {name: options.pop(name) for name in ("lanes", "shuffle") if name in options}
    made = ImageTextDataModule(
        ShardStream(pattern, **stream),
        lambda pairs: EpisodePlan(pairs, size, refresh_every=refresh_every),
        image_views={"image": Augmentation()},
        text_views={"text": Caption()},
        tokenize=Tokenizer(8),
        **{"batch_size": 8, "image_size": 16, "evaluation_batch_size": 24, "max_faults": 1.0} | options,
    )
    made.trainer = Mock(global_rank=rank, world_size=world, current_epoch=0)
    return made


def joined(loader: Iterable[Any]) -> dict[str, Tensor]:
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def both_passes(made: ImageTextDataModule, episode: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What extraction and training give, the latter with its positions resolved."""
    extracted = joined(made.extraction_dataloader(episode))
    loader = made.train_dataloader()
    assert isinstance(loader, StreamLoader)
    loader.set_epoch(episode)
    cpu = torch.device("cpu")
    trained = joined(made.transfer_batch_to_device(batch, cpu, 0) for batch in loader)
    return extracted, trained


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_an_episode_of_the_corpus_size_is_one_pass_of_both_passes(corpus: str) -> None:
    made = datamodule(corpus)
    for episode in range(3):
        extracted, trained = both_passes(made, episode)
        assert extracted["position"].tolist() == list(range(PAIRS))
        assert len(set(extracted["index"].tolist())) == PAIRS
        assert sorted(trained["position"].tolist()) == list(range(PAIRS))
        assert trained["position"].tolist() != list(range(PAIRS))
        rows = trained["position"]
        for name in ("index", "caption", "text", "checksum", "place"):
            assert torch.equal(extracted[name][rows], trained[name])
        assert not torch.equal(extracted["image"][rows], trained["image"])  # another draw of the augmentation


def test_smaller_episodes_go_on_where_the_last_ended(corpus: str) -> None:
    made = datamodule(corpus, size=16)
    found: Counter[int] = Counter()
    for episode in range(PAIRS // 16):
        extracted, _ = both_passes(made, episode)
        found.update(extracted["index"].tolist())
    assert set(found.values()) == {1}
    assert len(found) == PAIRS


def test_training_takes_whole_batches_and_leaves_the_rest_to_no_one(corpus: str) -> None:
    made = datamodule(corpus, size=30)
    extracted, trained = both_passes(made, 0)
    assert len(extracted["index"]) == 30
    assert len(trained["index"]) == 24
    assert set(trained["index"].tolist()) < set(extracted["index"].tolist())
    following, _ = both_passes(made, 1)
    assert not set(following["index"].tolist()) & set(extracted["index"].tolist())


def test_a_block_is_read_again(corpus: str) -> None:
    made = datamodule(corpus, size=16, refresh_every=2)
    (_, one), (extracted, two) = both_passes(made, 0), both_passes(made, 1)
    assert set(one["index"].tolist()) == set(two["index"].tolist()) == set(extracted["index"].tolist())
    assert one["index"].tolist() != two["index"].tolist()
    assert torch.equal(one["caption"][one["place"].argsort()], two["caption"][two["place"].argsort()])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(corpus: str, workers: int) -> None:
    alone, shared = datamodule(corpus, size=30), datamodule(corpus, size=30, num_workers=workers)
    for episode in range(2):
        for one, other in zip(both_passes(alone, episode), both_passes(shared, episode), strict=True):
            assert one.keys() == other.keys()
            for name in one:
                assert torch.equal(one[name], other[name]), name


def test_processes_share_every_batch(corpus: str) -> None:
    alone = both_passes(datamodule(corpus, size=32), 0)
    parts = [both_passes(datamodule(corpus, size=32, rank=rank, world=2), 0) for rank in range(2)]
    for whole, (one, other) in zip(alone, zip(*parts, strict=True), strict=True):
        assert len(one["index"]) == len(other["index"]) == 16
        shares = torch.cat([one["place"].view(4, 4), other["place"].view(4, 4)], dim=1)
        assert torch.equal(shares.sort(dim=1).values, whole["place"].view(4, 8).sort(dim=1).values)


@pytest.mark.parametrize("shuffle", [1, 2, 5, 100])
@pytest.mark.parametrize("broken", [(0,), (7, 8, 9, 30, 31), tuple(range(0, 64, 3)), (62, 63)], ids=len)
def test_both_passes_leave_out_the_same_broken_pictures(tmp_path: Path, broken: tuple[int, ...], shuffle: int) -> None:
    made = datamodule(write_corpus(tmp_path, broken=broken), size=24, shuffle=shuffle)
    for episode in range(3):
        extracted, trained = both_passes(made, episode)
        assert extracted["position"].tolist() == list(range(24))
        assert torch.equal(extracted["index"][trained["position"]], trained["index"])
        assert Counter(trained["index"].tolist()) == Counter(extracted["index"].tolist())


def test_more_broken_than_whole_is_an_error(tmp_path: Path) -> None:
    made = datamodule(write_corpus(tmp_path, broken=tuple(range(60))), size=24)
    with pytest.raises(ValueError, match=r"more pairs of lane \d are broken than whole, such as .*not a readable"):
        both_passes(made, 0)


class Rewrite(Callback):
    """Changes shards between the two passes over an episode: other pictures under the same keys."""

    def __init__(self, folder: Path, episode: int) -> None:
        self.folder = folder
        self.episode = episode

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.episode:
            for shard in self.folder.glob("*.tar"):
                content = bytearray(shard.read_bytes())
                place = content.index(b"\xff\xda") + 30  # in the first picture's scan
                content[place] ^= 1
                shard.write_bytes(content)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_changes_between_the_passes_is_an_error(tmp_path: Path, workers: int) -> None:
    pattern = write_corpus(tmp_path / "corpus")
    words = streamed(pattern, "episode.size=64", "prototype.warmup_episodes=0", f"num_workers={workers}")
    run = build(tiny_config(tmp_path, "protoclip", *words))
    with pytest.raises(ValueError, match=r"pair \d+ of episode 1 .* a shard changed between the two passes") as caught:
        run.fit(Rewrite(tmp_path / "corpus", 1))
    assert "\n" not in str(caught.value)


def test_another_pair_and_none() -> None:
    facts = {name: torch.arange(4) for name in ("place", "position", "index", "checksum")} | {
        "position": torch.tensor([3, 2, 1, 0])
    }
    ties = Ties(0, {name: value.flip(0) for name, value in facts.items()})
    batch = {name: value[[2, 0]] for name, value in facts.items()} | {"episode": torch.tensor([7, 7])}
    assert ties.positions(batch).tolist() == [1, 3]
    for name in ("index", "checksum", "place"):
        with pytest.raises(ValueError, match="of episode 7"):
            ties.positions(batch | {name: batch[name] + torch.tensor([0, 9])})


@pytest.mark.parametrize(
    ("world", "workers", "mend"),
    [
        (3, 1, r"set data\.train\.lanes to a multiple of 3"),
        (2, 3, r"too few for 2 x 3 workers: set num_workers=2, or data\.train\.lanes=6"),
    ],
)
def test_more_workers_than_lanes_are_told_at_the_start(world: int, workers: int, mend: str) -> None:
    check_lanes(4, 2, 2)
    check_lanes(4, 1, 0)
    with pytest.raises(ValueError, match=mend):
        check_lanes(4, world, workers)


def test_a_run_tells_too_few_lanes_before_it_trains(corpus: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "clip", *streamed(corpus, "num_workers=5"))
    with pytest.raises(ValueError, match="set num_workers=4"):
        build_datamodule(config).check_processes(1)


def test_lengths_of_passes() -> None:
    plan = EpisodePlan(None, 30)
    assert [Pass("train", plan, 4, rank, 2).slots for rank in range(2)] == [12, 12]
    assert [Pass("extract", plan, 7, rank, 4).slots for rank in range(4)] == [8, 8, 7, 7]
    assert [Pass("extract", plan, 7, rank, 4).batches for rank in range(4)] == [2, 2, 1, 1]
    lanes = [Pass("extract", plan, 7, rank, 2).lane(slot, 4) for rank in range(2) for slot in range(4)]
    assert lanes == [0, 2, 0, 2, 1, 3, 1, 3]
    assert np.unique(lanes).tolist() == [0, 1, 2, 3]
