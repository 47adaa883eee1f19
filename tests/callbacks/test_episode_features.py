"""Features of an episode: fresh ones of some positions, and those that training left behind."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from callbacks.episode_features import extract
from callbacks.prototype_refresh import PrototypeRefresh
from datamodules.datamodule import ImageTextDataModule
from datamodules.datasets import EpisodeDataset
from datamodules.episodes import EpisodeSampler, SampleKey
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import LEFT_OUT, EpisodeFeatures, Prototypes
from tests.tiny import Built, build, tiny_config

SIZE, STEPS, PAIRS, EPISODES = 36, 4, 64, 4
"""Four pairs of an episode are not trained on: they do not fill a batch of eight."""
WORDS = (f"episode.size={SIZE}", f"run.episodes={EPISODES}", "prototype.warmup_episodes=0")
COLUMNS = ("image", "text", "indices", "captions", "classes", "positions")


def refresh_of(built: Built) -> PrototypeRefresh:
    return next(callback for callback in built.callbacks if isinstance(callback, PrototypeRefresh))


# Fresh features ------------------------------------------------------------------------------------------------------
class Twice(Callback):
    """Extracts an episode whole, some of its positions, and the whole again."""

    def __init__(self, positions: list[int]) -> None:
        self.positions = np.array(positions)
        self.found: list[EpisodeFeatures | None] = []
        self.modes: set[bool] = set()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ImageTextPretraining)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        keys = pl_module.terms["prototype"].required
        assert isinstance(keys, tuple)
        for positions in (None, self.positions, None):
            self.found.append(extract(pl_module, datamodule, 0, keys, positions))
        self.modes = {module.training for module in pl_module.modules()}


def test_fresh_features_of_some_positions_are_rows_of_the_whole(tmp_path: Path) -> None:
    places = [2, 3, 11, 30, 35]
    twice = Twice(places)
    built = build(tiny_config(tmp_path, "protoclip", *WORDS, "run.episodes=1", "prototype.warmup_episodes=1"))
    built.datamodule.evaluation_batch_size = 16
    built.fit(twice)
    whole, some, again = twice.found
    assert whole is not None
    assert some is not None
    assert again is not None
    assert whole.positions.tolist() == list(range(SIZE))
    assert whole.indices.tolist() == built.datamodule.plan.indices(0).tolist()
    assert some.episode_size == whole.episode_size == SIZE
    for name in COLUMNS:
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
        torch.testing.assert_close(getattr(some, name), getattr(whole, name)[places], msg=name)
    assert twice.modes == {True}


def test_the_extraction_makes_the_views_of_its_features_alone(tmp_path: Path) -> None:
    words = ("+view@views.image_views.other=local", "terms.image_text.pairs=[[image,text],[other,text]]", *WORDS)
    built = build(tiny_config(tmp_path, "protoclip", *words, "run.episodes=1"))
    made: dict[str, Counter[str]] = {"extract": Counter(), "train": Counter()}
    original = EpisodeDataset.__getitem__

    def seen(dataset: EpisodeDataset, key: SampleKey) -> dict[str, Any]:
        sample = original(dataset, key)
        made[key.purpose].update({*sample} & {"image", "other", "text"})
        return sample

    with patch.object(EpisodeDataset, "__getitem__", seen):
        built.fit()
    assert made["extract"] == {"image": SIZE, "text": SIZE}
    assert made["train"] == dict.fromkeys(("image", "other", "text"), SIZE - 4)


# Recorded features ---------------------------------------------------------------------------------------------------
@dataclass
class Episode:
    """What one episode began with."""

    before: dict[int, tuple[int, Tensor]]
    """Of each pair that was trained on: episode and features [2, dim] of the last time."""
    files: dict[str, np.ndarray] = field(default_factory=dict)
    bank: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    given: EpisodeFeatures | None = None
    """To the grouping; None where it was not asked."""
    extracted: list[int] = field(default_factory=list)
    """Positions of the pairs that were."""

    @property
    def features(self) -> EpisodeFeatures:
        """Given to the grouping."""
        assert self.given is not None
        return self.given


class Watch(Callback):
    """Looks at the towers' heads in training by itself, and at each episode's refresh."""

    def __init__(self, built: Built) -> None:
        self.refresh = refresh_of(built)
        self.folder = built.checkpoints.parent / "recorded"
        self.episodes: list[Episode] = []
        self.visits: dict[int, tuple[int, Tensor]] = {}
        self.outputs: dict[str, Tensor] = {}
        self.grouping = self.refresh.groupings["prototype"]
        state: dict[str, Any] = {"state_dict.return_value": {}}
        self.refresh.groupings["prototype"] = Mock(side_effect=self.group, **state)

    def group(self, features: EpisodeFeatures, *arguments: Any, **options: Any) -> Prototypes:
        self.episodes[-1].given = features
        return self.grouping(features, *arguments, **options)

    def extract(self, *arguments: Any) -> EpisodeFeatures | None:
        self.episodes[-1].extracted = arguments[4].tolist()
        return extract(*arguments)

    def listen(self, tower: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _: Any, output: Tensor) -> None:
            if module.training:
                self.outputs[tower] = output.detach().clone()

        return hook

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for tower in ("image", "text"):
            pl_module.get_submodule(f"heads.prototype.{tower}").register_forward_hook(self.listen(tower))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.episodes.append(Episode(dict(self.visits)))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, step: int) -> None:
        if step == 0:
            now = self.episodes[-1]
            now.files = {name: np.load(self.folder / f"{name}.npy") for name in ("features", "visited")}
            bank = pl_module.get_submodule("banks.prototype").state_dict()
            now.bank = {name: value.clone() for name, value in bank.items()}
            now.figures = dict(self.refresh.figures)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Mapping[str, Tensor], _: int
    ) -> None:
        both = torch.stack([self.outputs["image"], self.outputs["text"]], dim=1)
        for index, features in zip(batch["index"].tolist(), both, strict=True):
            self.visits[index] = (trainer.current_epoch, features)


def run(runs: Path, share: float, *words: str) -> tuple[ImageTextDataModule, list[Episode]]:
    options = ("prototype.features=recorded", f"prototype.fresh_share={share}", f"data.num_pairs={PAIRS}")
    built = build(tiny_config(runs, "protoclip", *WORDS, *options, *words))
    watch = Watch(built)
    built.callbacks.insert(0, watch)
    with patch("callbacks.episode_features.extract", watch.extract):
        built.fit()
    return built.datamodule, watch.episodes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageTextDataModule, list[Episode]]:
    """Nothing is extracted."""
    return run(tmp_path_factory.mktemp("runs"), 0.0)


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageTextDataModule, list[Episode]]:
    """A fifth of the pairs is."""
    return run(tmp_path_factory.mktemp("runs"), 0.2)


def drawn(datamodule: ImageTextDataModule, episode: int) -> list[int]:
    """Pairs of an episode by position."""
    pairs: list[int] = datamodule.plan.indices(episode).tolist()
    return pairs


def caption_of(datamodule: ImageTextDataModule, pair: int, episode: int) -> int:
    """Which caption a pair was trained with in an episode."""
    places = EpisodeSampler(datamodule.plan, purpose="extract", batch_size=1, episode=episode)
    key = next(key for key in places if key.index == pair)
    return datamodule.dataset.caption_number(key, len(datamodule.train.captions(pair)))


def test_the_files_hold_each_pairs_last_training_features(
    recorded: tuple[ImageTextDataModule, list[Episode]],
) -> None:
    for number, episode in enumerate(recorded[1]):
        visited = [episode.before[pair][0] if pair in episode.before else -1 for pair in range(PAIRS)]
        assert episode.files["visited"].tolist() == visited
        assert len(episode.before) >= min(number, 1) * STEPS * 8
        for pair, (_, features) in episode.before.items():
            assert np.array_equal(episode.files["features"][pair], features.half().numpy())
    assert len({visit for visit, _ in recorded[1][-1].before.values()}) == EPISODES - 1


def test_prototypes_are_of_what_was_recorded(recorded: tuple[ImageTextDataModule, list[Episode]]) -> None:
    datamodule, episodes = recorded
    for number, episode in enumerate(episodes[1:], 1):
        pairs, given = drawn(datamodule, number), episode.features
        seen = [position for position in range(SIZE) if pairs[position] in episode.before]
        assert given.positions.tolist() == seen
        assert given.indices.tolist() == [pairs[position] for position in seen]
        assert given.classes.tolist() == [datamodule.train.label(pairs[position]) for position in seen]
        visits = [(pairs[position], episode.before[pairs[position]][0]) for position in seen]
        assert given.captions.tolist() == [caption_of(datamodule, pair, visit) for pair, visit in visits]
        for place, features in enumerate((given.image, given.text)):
            rows = torch.stack([episode.before[pairs[position]][1][place] for position in seen])
            torch.testing.assert_close(features, rows, rtol=0, atol=1e-3)
            torch.testing.assert_close(features.norm(dim=1), torch.ones(len(seen)), rtol=0, atol=1e-6)
        assert episode.extracted == []
    assert 0 < len(episodes[1].features.positions) < SIZE


def test_pairs_not_seen_yet_take_no_part(recorded: tuple[ImageTextDataModule, list[Episode]]) -> None:
    for number, episode in enumerate(recorded[1]):
        absent = torch.ones(SIZE, dtype=torch.bool)
        if episode.given is not None:
            absent[episode.given.positions] = False
            assert int(episode.bank["image.counts"].clamp(min=0).sum()) == len(episode.given.positions)
        for modality in ("image", "text"):
            labels = episode.bank[f"{modality}.labels"]
            assert torch.equal(labels == LEFT_OUT, absent)
            assert bool((labels[~absent] >= 0).all())
        assert bool(episode.bank["partial"]) == bool(absent.any())
        assert int(episode.bank["block"]) == number


def test_nothing_is_grouped_before_anything_is_recorded(recorded: tuple[ImageTextDataModule, list[Episode]]) -> None:
    first = recorded[1][0]
    assert first.given is None
    assert first.figures == {"prototypes/seen_percent": 0.0, "prototypes/fresh_percent": 0.0}


@pytest.mark.parametrize("name", ["recorded", "refreshed"])
def test_ages_are_told(name: str, request: pytest.FixtureRequest) -> None:
    datamodule, episodes = request.getfixturevalue(name)
    for number, episode in enumerate(episodes):
        pairs = drawn(datamodule, number)
        old = [pair for position, pair in enumerate(pairs) if position not in episode.extracted]
        ages = [number - episode.before[pair][0] for pair in old if pair in episode.before]
        ages += [0] * len(episode.extracted)
        figures = {"seen_percent": 100 * len(ages) / SIZE, "fresh_percent": 100 * len(episode.extracted) / SIZE}
        if ages:
            figures |= {"age_mean": sum(ages) / len(ages), "age_max": max(ages)}
        for figure, value in figures.items():
            assert episode.figures[f"prototypes/{figure}"] == pytest.approx(value), figure
        assert sum("/age_" in figure for figure in episode.figures) == 2 * bool(ages)


def test_the_share_of_fresh_features_is_the_oldest(refreshed: tuple[ImageTextDataModule, list[Episode]]) -> None:
    datamodule, episodes = refreshed
    chosen: list[list[int]] = []
    for number, episode in enumerate(episodes):
        pairs = drawn(datamodule, number)
        visits = [episode.before[pair][0] if pair in episode.before else -1 for pair in pairs]
        assert len(episode.extracted) == round(0.2 * SIZE)
        assert episode.extracted == sorted(episode.extracted)
        chosen.append([visits[position] for position in episode.extracted])
        others = [visit for position, visit in enumerate(visits) if position not in episode.extracted]
        assert max(chosen[-1]) <= min(others)
        seen = [position for position in range(SIZE) if visits[position] >= 0 or position in episode.extracted]
        assert episode.features.positions.tolist() == seen
    assert {-1, 0} <= set(chosen[-1])  # those never visited, then the oldest


def test_fresh_and_recorded_rows_are_not_mixed_up(refreshed: tuple[ImageTextDataModule, list[Episode]]) -> None:
    datamodule, episodes = refreshed
    for number, episode in enumerate(episodes):
        given, pairs = episode.features, drawn(datamodule, number)
        assert given.indices.tolist() == [pairs[position] for position in given.positions.tolist()]
        assert all(getattr(given, name).dtype == torch.int64 for name in COLUMNS[2:])
        for row, position in enumerate(given.positions.tolist()):
            _, features = episode.before.get(pairs[position], (-1, torch.zeros(2, 8)))
            kept = torch.allclose(features, torch.stack([given.image, given.text], dim=1)[row], atol=1e-3)
            assert kept == (position not in episode.extracted)


def test_a_record_that_is_all_fresh_is_a_fresh_run(tmp_path: Path) -> None:
    fresh = build(tiny_config(tmp_path, "protoclip", *WORDS, "run.episodes=1")).fit()
    words = ("run.episodes=1", "prototype.features=recorded", "prototype.fresh_share=1.0")
    recorded = build(tiny_config(tmp_path, "protoclip", *WORDS, *words)).fit()
    for name, value in recorded.module.state_dict().items():
        assert torch.equal(value, fresh.module.state_dict()[name]), name
