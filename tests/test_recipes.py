"""Recipes and the experiments at the papers' sizes: their numbers, and a fast step of each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from callbacks.locked_image_tuning import LockedImageTuning
from datamodules.episodes import EpisodePlan, EpisodeSampler, episode_count
from protoclip.cli.build import check_settings
from protoclip.instantiate import instantiate
from protoclip.prototypes import PrototypeBank
from protoclip.schedule import WarmupCosine
from tests.conftest import TINY, TINY_PROTOTYPES
from tests.teachers import fill_caches
from tests.tiny import build

CORPORA = {"cc2.5m_protoclip": 2_500_000, "cc2.5m_clip": 2_500_000, "yfcc_protoclip": 14_000_000}
LIGHT = {"flip": 0.5, "jitter_probability": 0.2, "grayscale": 0.2, "blur": 0.2}


def composed(*words: str) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides=list(words))


def plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def start_of(config: DictConfig) -> float | None:
    callback = config.callbacks.get("locked_image_tuning")
    return callback.start if callback else None


# Recipes -------------------------------------------------------------------------------------------------------------
def test_matched_changes_nothing() -> None:
    assert plain(composed("recipe=matched")) == plain(composed()) == plain(composed("~recipe"))
    assert start_of(composed()) is None


@pytest.mark.parametrize(("recipe", "clip", "start"), [("paper", 1e5, 0.5), ("upstream", 10.0, 0.995)])
def test_numbers_of_a_recipe(recipe: str, clip: float, start: float) -> None:
    config = composed(f"recipe={recipe}")
    assert (config.trainer.gradient_clip_val, start_of(config)) == (clip, start)
    assert (config.batch_size, config.episode.size, config.prototype.warmup_episodes) == (512, 200_000, 1)
    assert (config.prototype.images_per_prototype, config.prototype.num_prototypes) == (10, None)
    assert (config.optimizer.weight_decay, plain(config.optimizer.schedule)["warmup"]) == (0.5, 0.1)
    optimizer = plain(config.optimizer.optimizer)
    assert optimizer.pop("fused")
    assert optimizer == {"_target_": "torch.optim.AdamW", "lr": 5e-4, "betas": [0.9, 0.999], "eps": 1e-8}
    view = plain(config.views.image_views.image)
    assert view["crop_scale"] == [0.5, 1.0]
    assert view.items() >= LIGHT.items()


def test_words_win_over_a_recipe() -> None:
    config = composed("recipe=paper", "views=none", "batch_size=64", "callbacks.locked_image_tuning.start=1.0")
    assert (config.batch_size, start_of(config)) == (64, 1.0)
    assert plain(config.views) == plain(composed("views=none").views)


def test_a_recipe_without_prototypes_is_clip_with_locked_image_tuning() -> None:
    config = composed("recipe=paper", "method=clip")
    assert start_of(config) == 0.5
    assert "prototype" not in config


# Experiments ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("experiment", "words", "episodes", "locked_from"),
    [
        ("cc2.5m_protoclip", (), 400, 200),
        ("cc2.5m_protoclip", ("recipe=upstream",), 400, 398),
        ("cc2.5m_protoclip", ("recipe=matched",), 400, None),
        ("cc2.5m_clip", (), 400, None),
        ("yfcc_protoclip", (), 560, 280),
    ],
)
def test_numbers_of_an_experiment(
    experiment: str, words: tuple[str, ...], episodes: int, locked_from: int | None
) -> None:
    config = composed(f"experiment={experiment}", "data.path=pairs.tsv", *words)
    settings = check_settings(config)
    pairs = CORPORA[experiment]
    found = episode_count(config.episode.size, pairs, episodes=config.run.episodes, epochs=config.run.epochs)
    assert found == episodes
    plan = EpisodePlan(pairs, config.episode.size)
    steps = len(EpisodeSampler(plan, purpose="train", batch_size=config.batch_size)) // config.batch_size
    assert steps == 390
    factor = instantiate(WarmupCosine, settings["model"]["schedule"]["init_args"], "schedule")(episodes * steps)
    warmup = 390 * episodes // 10  # the README's 15,625 are of 391 steps an episode
    assert [factor(step) for step in (0, warmup - 1)] == pytest.approx([1 / warmup, 1.0])
    assert factor(warmup + 1) < 1.0
    start = start_of(config)
    assert (None if start is None else round(start * episodes)) == locked_from
    assert (config.towers.name, config.towers.image_size, config.towers.context_length) == ("RN50-quickgelu", 224, 77)
    assert (config.trainer.precision, config.trainer.devices) == ("bf16-mixed", "auto")


def test_prototypes_of_the_experiments() -> None:
    for experiment in ("cc2.5m_protoclip", "yfcc_protoclip"):
        config = composed(f"experiment={experiment}", "data.path=pairs.tsv")
        settings = check_settings(config)
        model, refresh = settings["model"], settings["trainer"]["callbacks"]
        assert model["terms"].keys() == {"image_text", "prototype", "roberta_large"}
        assert [term["init_args"]["weight"] for term in model["terms"].values()] == [1.0, 1.0, 1.0]
        assert model["banks"].keys() == {"prototype", "roberta_large"}
        for bank in model["banks"].values():
            assert instantiate(PrototypeBank, bank["init_args"], "bank").num_prototypes == 20_000
        (groupings,) = (
            callback["init_args"]["groupings"] for callback in refresh if "groupings" in callback["init_args"]
        )
        teacher = groupings["roberta_large"]["init_args"]
        assert (teacher["teacher"], teacher["scope"]) == ("roberta_large", "episode")
        assert teacher["cluster"] == groupings["prototype"]["init_args"]["cluster"]
        assert (config.prototype.kmeans.redo, config.prototype.kmeans.iterations) == (3, 20)
        assert (config.prototype.target_temperature, config.heads.prototype.out_dim) == (0.01, 128)


def test_clip_and_protoclip_differ_in_the_method_alone_under_matched() -> None:
    words = ("experiment=cc2.5m_protoclip", "recipe=matched", "teacher=[]", "data.path=pairs.tsv")
    clip, protoclip = (plain(composed(*words, f"method={method}")) for method in ("clip", "protoclip"))
    for part in ("datamodule", "trainer", "optimizer", "run", "episode", "towers"):
        assert clip[part] == protoclip[part], part
    assert clip["callbacks"].items() <= protoclip["callbacks"].items()
    assert protoclip["callbacks"].keys() - clip["callbacks"].keys() == {"prototype_refresh"}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = ["filepath\ttitle"]
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png\tpicture number {number}")
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("experiment", CORPORA)
def test_an_experiment_trains(experiment: str, manifest: Path, tmp_path: Path) -> None:
    """Three episodes of two steps: InfoNCE alone, prototypes, and the image tower locked; on the CPU."""
    omitted = ("views", "data.num_pairs", "run.episodes")
    smaller = [word for word in TINY if not word.startswith(omitted)]
    smaller += ["towers.name=small-resnet", "episode.size=16", "run.epochs=3", "num_workers=0", f"data.path={manifest}"]
    smaller += ["trainer.devices=1", "trainer.precision=32-true", "trainer.sync_batchnorm=false", f"runs={tmp_path}"]
    if "protoclip" in experiment:
        smaller += [
            *TINY_PROTOTYPES,
            "prototype.kmeans.device=cpu",
            "teachers.roberta_large.dims=4",
            f"teacher.cache={tmp_path}",
        ]
    parts = build(fill_caches(composed(f"experiment={experiment}", *smaller))).fit()
    assert parts.trainer.global_step == 6
    locks = any(isinstance(callback, LockedImageTuning) for callback in parts.callbacks)
    assert parts.module.image_locked_from == (2 if locks else None)
    assert locks == ("protoclip" in experiment)
