from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import default_collate

from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import EpisodePlan, SampleKey
from datamodules.manifests import ManifestPairs
from datamodules.scenes import SceneObjects, ScenePairs
from datamodules.sources import PairSource
from datamodules.text_views import Caption
from datamodules.views import Augmentation, evaluation_transform
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import PrototypeBank, kmeans
from protoclip.schedule import WarmupCosine
from protoclip.seeds import derive_seed
from protoclip.tokenizer import Tokenizer
from tests.protoclip.test_tokenizer import hf_tokenizer
from tests.tiny import Batches, build, tiny_config

Batch = dict[str, Tensor]
ANIMALS = ("cat", "dog", "cow", "hen", "fox", "owl")


@dataclass
class Prose(PairSource):
    """Captions far longer than the context, all with the same beginning."""

    fingerprint: str = "prose"

    def __len__(self) -> int:
        return 6

    def image(self, index: int) -> Tensor:
        return torch.full((3, 16, 16), 40 * index, dtype=torch.uint8)

    def label(self, index: int) -> int:
        return index

    def captions(self, index: int) -> Sequence[str]:
        return [f"a photo of {ANIMALS[index]} {'and then ' * 60}"]


def prose(context_length: int = 10) -> ImageTextDataModule:
    return ImageTextDataModule(
        Prose(),
        partial(EpisodePlan, size=6),
        image_views={"image": Augmentation()},
        text_views={"text": Caption()},
        tokenize=Tokenizer(context_length),
        batch_size=3,
        image_size=32,
        validation={"prose": Prose()},
    )


def spell(captions: Sequence[str]) -> Tensor:
    return torch.tensor([[ord(letter) for letter in caption.ljust(200)[:200]] for caption in captions])


def scenes(*, workers: int = 0, size: int = 12, batch_size: int = 4, seed: int = 0) -> ImageTextDataModule:
    objects = {name: SceneObjects("test", number, image_size=16) for name, number in (("few", 3), ("more", 7))}
    return ImageTextDataModule(
        ScenePairs("train", 40, image_size=16),
        partial(EpisodePlan, size=size, refresh_every=2),
        image_views={"image": Augmentation(flip=0.5)},
        text_views={"text": Caption()},
        tokenize=spell,
        batch_size=batch_size,
        image_size=16,
        validation={"pairs": ScenePairs("val", 5, image_size=16), **objects},
        test={"more": objects["more"]},
        evaluation_batch_size=3,
        num_workers=workers,
        seed=seed,
    )


def assert_same(left: Sequence[Batch], right: Sequence[Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def column(batches: Sequence[Batch], name: str) -> Tensor:
    return torch.cat([batch[name] for batch in batches])


def test_workers_do_not_change_any_batch() -> None:
    here, there = scenes(), scenes(workers=2)
    assert_same(list(here.train_dataloader()), list(there.train_dataloader()))
    for episode in (0, 3):  # the second time from workers that live on
        assert_same(*(list(datamodule.extraction_dataloader(episode)) for datamodule in (here, there)))
    assert_same(list(here.val_dataloader()[0]), list(there.val_dataloader()[0]))


def test_both_passes_see_the_same_pairs_and_captions_under_other_augmentations() -> None:
    datamodule = scenes()
    train, extract = list(datamodule.train_dataloader()), list(datamodule.extraction_dataloader(0))
    places = column(train, "position")
    assert column(extract, "position").tolist() == list(range(12))
    assert places.tolist() != list(range(12))
    assert sorted(places.tolist()) == list(range(12))
    for name in ("index", "text", "label", "episode", "block"):
        assert torch.equal(column(train, name), column(extract, name)[places])
    same = (column(train, "image") == column(extract, "image")[places]).flatten(1).all(1)
    assert not same.any()


def test_episodes_of_a_block_keep_pairs_and_captions() -> None:
    datamodule = scenes()
    first, second, third = (list(datamodule.extraction_dataloader(episode)) for episode in range(3))
    for name in ("index", "text", "block"):
        assert torch.equal(column(first, name), column(second, name))
        assert not torch.equal(column(first, name), column(third, name))
    assert not torch.equal(column(first, "image"), column(second, "image"))


def test_a_seed_decides_captions_and_augmentations() -> None:
    first, same, other = (list(scenes(seed=seed).extraction_dataloader(0)) for seed in (0, 0, 1))
    assert_same(first, same)
    assert not any(torch.equal(column(first, name), column(other, name)) for name in ("image", "text"))


def test_a_checkpoint_says_where_to_go_on() -> None:
    datamodule = scenes()
    datamodule.load_state_dict({"next_episode": 5})
    assert set(column(list(datamodule.train_dataloader()), "episode").tolist()) == {5}
    datamodule.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert datamodule.state_dict() == {"next_episode": 1, "faults": {"pairs": {}, "samples": {}}}


def test_evaluation_sets_come_whole_and_in_order() -> None:
    datamodule = scenes()
    pairs, few, more = datamodule.val_dataloader()
    assert [len(loader) for loader in (pairs, few, more)] == [2, 1, 3]
    assert column(list(more), "index").tolist() == list(range(7))
    assert column(list(pairs), "owner").tolist() == [i for i in range(5) for _ in range(5)]
    assert set(next(iter(few))) == {"index", "label", "image"}
    (test,) = datamodule.test_dataloader()
    assert_same(list(test), list(more))
    source, view = datamodule.validation["more"], evaluation_transform(16)
    assert torch.equal(column(list(more), "image"), torch.stack([view(source.image(index)) for index in range(7)]))
    assert column(list(more), "label").tolist() == [source.label(index) for index in range(7)]


def test_processes_share_the_batches_of_evaluation_sets() -> None:
    """Whole batches by turns, each picture once; an empty batch where there is none left."""
    shares = []
    for rank in (0, 1):
        datamodule = scenes()
        datamodule.trainer = Mock(global_rank=rank, world_size=2)
        datamodule.evaluation_batch_size = 3
        shares.append(
            [
                [batch.get("index", torch.empty(0)).tolist() for batch in loader]
                for loader in datamodule.val_dataloader()
            ]
        )
    assert shares[0] == [[[0, 1, 2]], [[0, 1, 2]], [[0, 1, 2], [6]]]
    assert shares[1] == [[[3, 4]], [[]], [[3, 4, 5]]]


def test_batches_that_are_done_are_left_out_of_the_test() -> None:
    shares = []
    for rank in (0, 1):
        datamodule = scenes()
        datamodule.trainer = Mock(global_rank=rank, world_size=2)
        datamodule.evaluation_batch_size, datamodule.test = 2, dict(datamodule.validation)
        done = dict(zip(datamodule.test, ([0, 1, 2], [0], [1, 3]), strict=True))
        datamodule.done = done.__getitem__
        loaders = datamodule.test_dataloader()
        shares.append([[batch.get("index", torch.empty(0)).tolist() for batch in loader] for loader in loaders])
    assert shares == [[[[]], [[2]], [[0, 1]]], [[[]], [[]], [[4, 5]]]]


def test_a_batch_larger_than_the_episode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size.*episode\.size"):
        scenes(batch_size=13).train_dataloader()


def test_extraction_takes_episodes_smaller_than_its_batch() -> None:
    assert [len(batch["index"]) for batch in scenes(size=2, batch_size=2).extraction_dataloader(0)] == [2]


def test_some_positions_are_rows_of_the_whole_extraction() -> None:
    datamodule = scenes()
    whole = list(datamodule.extraction_dataloader(2))
    assert datamodule.common_extraction_batches == len(whole) == 4
    some = list(datamodule.extraction_dataloader(2, np.array([1, 2, 6, 9, 11])))
    assert datamodule.common_extraction_batches == len(some) == 2
    together = [{name: torch.cat([batch[name] for batch in batches]) for name in some[0]} for batches in (whole, some)]
    for name, value in together[0].items():
        assert torch.equal(together[1][name], value[[1, 2, 6, 9, 11]]), name
    assert_same(list(datamodule.extraction_dataloader(2)), whole)


def test_long_captions_keep_their_end() -> None:
    datamodule, eot = prose(), Tokenizer().eot_id
    loaders = [datamodule.train_dataloader(), datamodule.extraction_dataloader(0), *datamodule.val_dataloader()]
    for batch in (batch for loader in loaders for batch in loader):
        assert batch["text"].shape[1] == 10
        assert (batch["text"][:, -1] == eot).all()
        assert ((batch["text"] == eot).sum(1) == 1).all()


@torch.no_grad()
def test_long_captions_have_embeddings_of_their_own(tmp_path: Path) -> None:
    (batch,) = prose(16).extraction_dataloader(0)
    features = build(tiny_config(tmp_path, "clip")).module.eval().encode("text", batch["text"])["features"]
    assert (torch.cdist(features, features) + torch.eye(6)).min() > 1e-4


def test_an_incomplete_batch_is_no_step_and_no_step_of_the_schedule(tmp_path: Path) -> None:
    words = ("episode.size=30", "batch_size=8", "run.episodes=3", "optimizer.schedule.warmup=0.25")
    run, seen = build(tiny_config(tmp_path, "clip", *words)), Batches()
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    run.fit(seen, Rates())
    schedule = run.trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(schedule, LambdaLR)
    assert [len(batch["index"]) for batch in seen.batches] == [8] * 9
    assert schedule.last_epoch == run.trainer.global_step == run.trainer.estimated_stepping_batches == 9
    factor = WarmupCosine(warmup=0.25)(9)
    assert rates == pytest.approx([0.002 * factor(step) for step in range(9)])
    assert schedule.get_last_lr()[0] == pytest.approx(0)
    assert {int(state["step"]) for state in run.trainer.optimizers[0].state.values()} == {9}


class LabelCheck(Callback):
    """Clusters each episode by hand, and compares what every training step reads from the bank by position."""

    def __init__(self) -> None:
        self.expected: dict[str, Tensor] = {}
        self.read: dict[str, Tensor] = {}
        self.indices = torch.empty(0)
        self.checked: list[tuple[int, int]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, ImageTextDataModule)
        assert isinstance(pl_module, ImageTextPretraining)
        episode = trainer.current_epoch
        plan = datamodule.plan
        drawn = plan.indices(episode).tolist()
        keys = [SampleKey(drawn[place], place, episode, episode, "extract") for place in range(plan.size)]
        batch = default_collate([datamodule.dataset[key] for key in keys])
        pl_module.eval()
        with torch.no_grad():
            features = {tower: pl_module.encode(tower, batch[tower])["prototype"] for tower in ("image", "text")}
        pl_module.train()
        seed = derive_seed(0, "prototypes", episode) % 2**31
        clusters = {
            tower: kmeans(features[tower], 3, iterations=4, redo=3, seed=seed + place).labels
            for place, tower in enumerate(("image", "text"))
        }
        self.expected = {"image": clusters["text"], "text": clusters["image"]}
        self.indices = batch["index"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, step: int
    ) -> None:
        assert torch.equal(batch["index"], self.indices[batch["position"]])
        for modality, labels in self.expected.items():
            assert torch.equal(self.read.pop(modality), labels[batch["position"]])
        self.checked.append((trainer.current_epoch, step))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_step_reads_the_labels_of_its_own_pairs(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, lookup = LabelCheck(), PrototypeBank.labels

    def spied(bank: PrototypeBank, modality: str, positions: Tensor, block: int) -> Tensor:
        check.read[modality] = lookup(bank, modality, positions, block)
        return check.read[modality]

    monkeypatch.setattr(PrototypeBank, "labels", spied)
    words = ("run.episodes=3", "prototype.warmup_episodes=0")
    build(tiny_config(tmp_path, "protoclip", f"num_workers={workers}", *words)).fit(check)
    assert check.checked == [(episode, batch) for episode in range(3) for batch in range(4)]


def test_ids_of_a_manifests_captions_are_kept_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png\ta thing of number {number}\n{number}.png\tanother {number}\n" for number in range(4))
    (tmp_path / "pairs.tsv").write_text("filepath\ttitle\n" + rows)
    calls: list[str] = []

    class Counting(Tokenizer):
        def __call__(self, texts: Sequence[str]) -> Tensor:
            calls.extend(texts)
            return super().__call__(texts)

    def samples(*, keep: bool = True) -> list[Tensor]:
        made = ImageTextDataModule(
            ManifestPairs(tmp_path / "pairs.tsv"),
            partial(EpisodePlan, size=4),
            image_views={},
            text_views={"text": Caption(), "next": Caption(offset=1)},
            tokenize=Counting(8),
            batch_size=4,
            image_size=8,
            keep_tokens=keep,
        )
        return [sample[view] for sample in made.extraction_dataloader(0) for view in ("text", "next")]

    first = samples()
    assert len(calls) == 8
    again, anew = samples(), samples(keep=False)
    assert len(calls) == 16
    for one, two, three in zip(first, again, anew, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_stored_features_depend_on_the_vocabulary_of_a_transformers_tokenizer(tmp_path: Path) -> None:
    datamodule = scenes()
    tokenizer = Tokenizer(8, hf_name=hf_tokenizer(tmp_path))
    assert tokenizer.identity is None
    for tokenize, identity in ((tokenizer, tokenizer.vocabulary_hash), (Tokenizer(8), Tokenizer(8).identity)):
        datamodule.tokenize = tokenize
        assert datamodule.evaluation_inputs["ids"]["identity"] == identity
