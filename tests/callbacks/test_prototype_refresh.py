from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils.data import default_collate

from callbacks.prototype_refresh import PrototypeRefresh
from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import SampleKey
from protoclip.checkpoints import read_checkpoint
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import Clusters, PrototypeBank, StudentClusters, kmeans
from protoclip.seeds import derive_seed
from tests.gloo import Pool
from tests.tiny import Built, build, tiny_config

MODALITIES = ("image", "text")
OPTIONS: dict[str, Any] = {"iterations": 4, "redo": 3}


def snapshot(module: pl.LightningModule) -> dict[str, Tensor]:
    """Weights and buffers but for the bank's: batch norms' running statistics among them."""
    return {name: value.clone() for name, value in module.state_dict().items() if not name.startswith("banks.")}


@dataclass
class Seen:
    """What one episode began with."""

    before: dict[str, Tensor]
    after: dict[str, Tensor] = field(default_factory=dict)
    forwards: list[tuple[bool, bool]] = field(default_factory=list)
    """Training mode, and whether gradients were kept, of every forward pass of the refresh."""
    modes: set[bool] = field(default_factory=set)
    bank: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    classes: Tensor = field(default_factory=lambda: torch.empty(0))
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def block(self) -> int:
        """Block of the bank."""
        return int(self.bank["block"])


class Before(Callback):
    """Runs before the refresh."""

    def __init__(self) -> None:
        self.episodes: list[Seen] = []
        self.refreshing = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def note(module: torch.nn.Module, _: object) -> None:
            if self.refreshing:
                self.episodes[-1].forwards.append((module.training, torch.is_grad_enabled()))

        pl_module.get_submodule("towers.image").register_forward_pre_hook(note)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.episodes.append(Seen(before=snapshot(pl_module)))
        self.refreshing = True


class After(Callback):
    """Runs after the refresh, and extracts the episode by hand with the same weights."""

    def __init__(self, before: Before) -> None:
        self.before = before

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ImageTextPretraining)
        self.before.refreshing = False
        seen = self.before.episodes[-1]
        seen.after = snapshot(pl_module)
        seen.modes = {module.training for module in pl_module.modules()}
        seen.bank = {name: value.clone() for name, value in pl_module.banks["prototype"].state_dict().items()}
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        seen.features, seen.classes = extract(pl_module, datamodule, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before.episodes[-1].metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


def extract(
    module: ImageTextPretraining, datamodule: ImageTextDataModule, episode: int
) -> tuple[dict[str, Tensor], Tensor]:
    plan = datamodule.plan
    block = episode // plan.refresh_every
    drawn = plan.indices(block).tolist()
    samples = [datamodule.dataset[SampleKey(drawn[i], i, episode, block, "extract")] for i in range(plan.size)]
    batch = default_collate(samples)
    module.eval()
    with torch.no_grad():
        heads = module.heads["prototype"]
        assert isinstance(heads, torch.nn.ModuleDict)
        features = {
            tower: heads[tower](module.towers.get_submodule(tower)(batch[tower])["embedding"]) for tower in MODALITIES
        }
    module.train()
    return features, batch["label"]


def refresh_of(built: Built) -> PrototypeRefresh:
    return next(callback for callback in built.callbacks if isinstance(callback, PrototypeRefresh))


def run(runs: Path, *overrides: str) -> tuple[Built, list[Seen]]:
    built = build(tiny_config(runs, "protoclip", *overrides))
    before = Before()
    built.callbacks.insert(0, before)
    built.fit(After(before))
    return built, before.episodes


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """One episode of warm-up, then two episodes of ProtoCLIP as it is."""
    return run(tmp_path_factory.mktemp("runs"), "run.episodes=3", "prototype.warmup_episodes=1")[1]


def clustered(seen: Seen, block: int) -> dict[str, Clusters]:
    seed = derive_seed(0, "prototypes", block) % 2**31
    return {
        modality: kmeans(seen.features[modality], 3, seed=seed + place, **OPTIONS)
        for place, modality in enumerate(MODALITIES)
    }


def means(features: Tensor, labels: Tensor, number: int) -> Tensor:
    """Prototype back translation, one row after the other."""
    rows = []
    for prototype in range(number):
        members = [features[place] for place in range(len(features)) if int(labels[place]) == prototype]
        rows.append(sum(members, torch.zeros(features.shape[1])) / max(1, len(members)))
    return torch.stack(rows)


def test_the_bank_equals_a_slow_recomputation(episodes: list[Seen]) -> None:
    for episode in (1, 2):
        seen = episodes[episode]
        clusters = clustered(seen, episode)
        for student, teacher in (("image", "text"), ("text", "image")):
            found = clusters[teacher]
            side = {
                name.removeprefix(f"{student}."): value for name, value in seen.bank.items() if name.startswith(student)
            }
            assert torch.equal(side["labels"], found.labels)
            assert torch.equal(side["counts"], torch.bincount(found.labels, minlength=3))
            torch.testing.assert_close(side["centroids"], found.centroids)
            torch.testing.assert_close(side["prototypes"], means(seen.features[student], found.labels, 3))
    assert not torch.equal(episodes[1].bank["image.prototypes"], episodes[2].bank["image.prototypes"])


def test_extraction_runs_in_eval_mode_without_gradient_and_leaves_no_trace(episodes: list[Seen]) -> None:
    for episode, seen in enumerate(episodes):
        assert seen.forwards == ([(False, False)] if episode else [])
        assert seen.modes == {True}
        assert seen.before.keys() == seen.after.keys()
        assert all(torch.equal(seen.before[name], seen.after[name]) for name in seen.before)
    assert any(name.endswith("running_mean") for name in episodes[0].before)


def test_running_statistics_do_move_in_training(episodes: list[Seen]) -> None:
    moved = [
        name
        for name, value in episodes[2].before.items()
        if name.endswith("running_var") and not torch.equal(value, episodes[1].before[name])
    ]
    assert any(name.startswith("heads.") for name in moved)
    assert any(name.startswith("towers.image.") for name in moved)


def test_the_warmup_has_no_prototypes(episodes: list[Seen]) -> None:
    assert [seen.block for seen in episodes] == [-1, 1, 2]
    assert (episodes[0].bank["image.labels"] == -1).all()
    assert not any(name.startswith(("kmeans/", "prototypes/")) for name in episodes[0].metrics)


def test_every_refresh_is_logged(episodes: list[Seen]) -> None:
    for episode in (1, 2):
        seen = episodes[episode]
        for modality, found in clustered(seen, episode).items():
            logged = [seen.metrics[f"kmeans/prototype/{modality}_objective_{step:02d}"] for step in range(4)]
            assert logged == pytest.approx(found.objective, rel=1e-5)
            assert seen.metrics[f"prototypes/prototype/{modality}_largest"] == int(found.counts.max())
            assert seen.metrics[f"prototypes/prototype/{modality}_empty"] == int((found.counts == 0).sum())
    first, second = (episodes[number].metrics["kmeans/prototype/image_objective_03"] for number in (1, 2))
    assert first != second


def test_refresh_every_keeps_the_bank_of_a_block(tmp_path: Path) -> None:
    words = ("run.episodes=5", "episode.refresh_every=2", "prototype.warmup_episodes=1")
    _, episodes = run(tmp_path, *words)
    assert [seen.block for seen in episodes] == [-1, 0, 1, 1, 2]
    assert [len(seen.forwards) for seen in episodes] == [0, 1, 1, 0, 1]
    second, third = episodes[2].bank, episodes[3].bank
    assert all(torch.equal(second[name], third[name]) for name in second)


def test_oracle_labels_are_the_classes_of_the_pairs(tmp_path: Path) -> None:
    oracle = ("prototype.labels=oracle", "prototype.num_prototypes=100", "prototype.images_per_prototype=null")
    corpus = ("run.episodes=2", "prototype.warmup_episodes=0", "episode.size=104", "data.num_pairs=128")
    _, episodes = run(tmp_path, *oracle, *corpus)
    for seen in episodes:
        present = set(seen.classes.tolist())
        assert len(present) > 10
        for modality in MODALITIES:
            assert torch.equal(seen.bank[f"{modality}.labels"], seen.classes)
            expected = means(seen.features[modality], seen.classes, 100)
            torch.testing.assert_close(seen.bank[f"{modality}.prototypes"], expected)
            assert torch.equal(seen.bank[f"{modality}.counts"], torch.bincount(seen.classes, minlength=100))
        assert seen.metrics["prototypes/prototype/image_empty"] == 100 - len(present)
        assert not any(name.startswith("kmeans/") for name in seen.metrics)


def test_options_reach_the_assignment(tmp_path: Path) -> None:
    words = (
        "prototype.source=same",
        "prototype.back_translation=false",
        "run.episodes=1",
        "prototype.warmup_episodes=0",
    )
    _, (seen,) = run(tmp_path, *words, "seed=3")
    seed = derive_seed(3, "prototypes", 0) % 2**31
    for place, modality in enumerate(MODALITIES):
        found = kmeans(seen.features[modality], 3, seed=seed + place, **OPTIONS)
        assert torch.equal(seen.bank[f"{modality}.labels"], found.labels)
        torch.testing.assert_close(seen.bank[f"{modality}.prototypes"], found.centroids)


def test_extraction_comes_in_batches(tmp_path: Path) -> None:
    built = build(tiny_config(tmp_path, "protoclip", "run.episodes=1", "prototype.warmup_episodes=0"))
    built.datamodule.evaluation_batch_size = 12
    before = Before()
    built.callbacks.insert(0, before)
    built.fit(After(before))
    (seen,) = before.episodes
    assert len(seen.forwards) == 3
    labels = clustered(seen, 0)["text"].labels
    assert (seen.bank["image.labels"] == labels).float().mean() > 0.9  # batches of another size round otherwise


# Several terms, or none ----------------------------------------------------------------------------------------------
FINE = (
    "+terms.fine={_target_:protoclip.terms.Prototype,bank:fine}",
    "+banks.fine={_target_:protoclip.prototypes.PrototypeBank,episode_size:32,dim:8,num_prototypes:5}",
    "+callbacks.prototype_refresh.groupings.fine={_target_:protoclip.prototypes.StudentClusters,source:same}",
)
"""A second term on the same features, with prototypes of its own."""


def test_two_groupings_share_one_extraction(tmp_path: Path) -> None:
    words = ("run.episodes=2", "prototype.warmup_episodes=1")
    built, episodes = run(tmp_path, *FINE, *words)
    assert [len(seen.forwards) for seen in episodes] == [1, 1]  # at first for one of them alone
    fine, seen = built.module.get_submodule("banks.fine"), episodes[1]
    assert isinstance(fine, PrototypeBank)
    assert [seen.block for seen in episodes] == [-1, 1]
    assert int(fine.block) == 1
    assert (fine.num_prototypes, len(seen.bank["image.counts"])) == (5, 3)
    seed = derive_seed(0, "prototypes", 1) % 2**31
    assert torch.equal(fine.image.labels, kmeans(seen.features["image"], 5, seed=seed).labels)
    assert torch.equal(seen.bank["image.labels"], clustered(seen, 1)["text"].labels)
    for term in ("prototype", "fine"):
        assert f"prototypes/{term}/image_largest" in seen.metrics
        assert f"kmeans/{term}/text_objective_00" in seen.metrics


@pytest.mark.parametrize("features", ["fresh", "recorded"])
def test_a_term_that_the_model_does_without_is_passed_over(tmp_path: Path, features: str) -> None:
    words = ("run.episodes=1", "prototype.weight=0", "prototype.warmup_episodes=0", f"prototype.features={features}")
    with patch("callbacks.prototype_refresh.extract") as extraction:
        built = build(tiny_config(tmp_path, "protoclip", *words)).fit()
        longer = build(tiny_config(tmp_path, "protoclip", *words, "run.episodes=2"))
        longer.fit(resume=built.checkpoints / "last.ckpt")  # its state goes on
    extraction.assert_not_called()
    assert longer.trainer.current_epoch == 2
    assert refresh_of(longer).figures == {}
    assert longer.module.returned == ()
    assert len(longer.module.banks) == 0
    assert not (built.checkpoints.parent / "recorded").exists()


@pytest.mark.parametrize("other", ["image=crop", "head=fine"])
def test_refuses_terms_that_read_other_features(tmp_path: Path, other: str) -> None:
    head = "+heads.fine={_target_:protoclip.heads.ProjectionHead,hidden_dim:16,out_dim:8}"
    built = build(tiny_config(tmp_path, "protoclip", *FINE, head, f"+terms.fine.{other}"))
    refresh = refresh_of(built)
    with pytest.raises(ValueError, match=r"terms prototype, fine read different .*: bind them alike$"):
        refresh.setup(built.trainer, built.module, "fit")
    del refresh.groupings["fine"]
    refresh.setup(built.trainer, built.module, "fit")


def test_refuses_a_share_of_fresh_features_where_all_are() -> None:
    with pytest.raises(ValueError, match=r"prototype\.fresh_share is for prototype\.features=recorded: leave it out"):
        PrototypeRefresh(groupings={}, fresh_share=0.5)


# State ---------------------------------------------------------------------------------------------------------------
class Remembers(StudentClusters):
    """A grouping that keeps something."""

    kept: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"kept": torch.arange(3)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = state["kept"]


def test_the_state_is_of_plain_types_and_goes_on(tmp_path: Path) -> None:
    words = ("run.episodes=2", "prototype.features=recorded", "prototype.fresh_share=0.5")
    built = build(tiny_config(tmp_path, "protoclip", *words))
    refresh = refresh_of(built)
    refresh.groupings["prototype"] = Remembers()
    built.fit()
    saved = read_checkpoint(built.checkpoints / "last.ckpt")["callbacks"]["PrototypeRefresh"]
    assert saved["figures"] == refresh.figures
    assert {"prototypes/age_mean", "prototypes/prototype/image_purity"} <= saved["figures"].keys()
    assert saved["recorded"]["episode"] == 1
    assert sorted(saved["recorded"]["indices"].tolist()) == sorted(built.datamodule.plan.indices(1).tolist())
    loaded, kept = PrototypeRefresh(groupings={"prototype": Remembers()}, features="recorded"), Remembers()
    loaded.groupings["prototype"] = kept
    loaded.load_state_dict(saved)
    assert kept.kept is not None
    assert kept.kept.tolist() == [0, 1, 2]
    again = loaded.state_dict()
    assert again["figures"] == saved["figures"]
    for name, value in saved["recorded"].items():
        assert torch.equal(torch.as_tensor(again["recorded"][name]), torch.as_tensor(value)), name


# Several processes ---------------------------------------------------------------------------------------------------
def shared_refresh(runs: Path) -> tuple[int, dict[str, Tensor]]:
    """How often this process clusters, and its bank."""
    words = ("trainer=ddp_sim", "run.episodes=1", "prototype.warmup_episodes=0")
    built = build(tiny_config(runs, "protoclip", *words))
    refresh = refresh_of(built)
    grouping = refresh.groupings["prototype"]
    assert isinstance(grouping, StudentClusters)
    cluster = Mock(wraps=grouping.cluster)
    grouping.cluster = cluster
    before = Before()
    built.callbacks.insert(0, before)
    built.fit(After(before))
    (seen,) = before.episodes
    assert seen.forwards == [(False, False)]
    return cluster.call_count, seen.bank


def test_several_processes_extract_and_one_clusters(pool: Pool, tmp_path: Path) -> None:
    (first, bank), (second, copy) = pool(shared_refresh, tmp_path)
    assert (first, second) == (2, 0)
    assert bool((bank["image.labels"] >= 0).all())
    assert all(torch.equal(value, copy[name]) for name, value in bank.items())
