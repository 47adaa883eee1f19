"""Recipes and the experiments at the papers' sizes: their numbers, and a fast step of each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from callbacks.locked_image_tuning import LockedImageTuning
from datamodules.episodes import EpisodePlan, EpisodeSampler, episode_count
from protoclip.cli import train
from protoclip.cli.build import check_settings
from protoclip.instantiate import instantiate
from protoclip.prototypes import PrototypeBank
from protoclip.schedule import WarmupCosine
from tests.conftest import TINY, TINY_METHODS, TINY_PROTOTYPES, composed
from tests.teachers import fill_caches
from tests.tiny import build

CORPORA = {"cc2.5m_protoclip": 2_500_000, "cc2.5m_clip": 2_500_000, "yfcc_protoclip": 14_000_000}
LIGHT = {"flip": 0.5, "jitter_probability": 0.2, "grayscale": 0.2, "blur": 0.2}
CONF = Path(__file__).parent.parent / "conf"
LOCKING = {"clip", "protoclip", "teacher", "distillation"}
"""Methods of ProtoCLIP's paper and code: 512 pairs a batch, locked-image tuning."""
BENCHMARK = {"clip", "slip", "filip", "declip", "defilip"}
METHODS = {
    "benchmark": BENCHMARK,
    "paper": BENCHMARK | LOCKING | {"pyramidclip"},
    "upstream": BENCHMARK | LOCKING,
}
"""Those that each recipe is known of."""
BENCHMARKS = (1e-3, 1e-4, 0.0, 0.1, 32, 1 / 32)
CODE = (1e-3, 1e-4, 0.0, 0.1, 34.1, 2500 / 128_001)
SLIP = (3e-3, 1e-6, 1e-5, 0.1, 25, 1 / 25)
NUMBERS: dict[tuple[str, str], tuple[float, ...]] = {
    **{("benchmark", method): BENCHMARKS for method in BENCHMARK},
    **{("paper", method): BENCHMARKS for method in ("filip", "declip", "defilip")},
    **{("upstream", method): CODE for method in ("declip", "defilip")},
    ("upstream", "filip"): (5e-4, 1e-4, 0.0, 0.5, 34.1, 2500 / 128_001),
    ("paper", "slip"): SLIP,
    ("upstream", "slip"): SLIP,
    ("paper", "pyramidclip"): (5e-4, 0.0, 0.0, 0.2, 8, 0.1),
}
"""Peak, first and last learning rate, decay, passes and warm-up, in batches of 4,096."""


def plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def start_of(config: DictConfig) -> float | None:
    callback = config.callbacks.get("locked_image_tuning")
    return callback.start if callback else None


# Recipes -------------------------------------------------------------------------------------------------------------
def test_matched_changes_nothing() -> None:
    assert plain(composed("recipe=matched")) == plain(composed()) == plain(composed("~recipe/of"))
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


def test_every_recipe_is_of_a_method_and_says_so() -> None:
    found = {folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in (CONF / "recipe/of").iterdir()}
    assert found == METHODS
    for recipe, methods in METHODS.items():
        for method in methods:
            assert plain(composed(f"recipe={recipe}", f"method={method}").recipe) == {"name": recipe, "of": method}


@pytest.mark.parametrize(("recipe", "method"), sorted(NUMBERS))
def test_numbers_of_a_recipe_in_large_batches(recipe: str, method: str) -> None:
    config = composed(f"recipe={recipe}", f"method={method}")
    optimizer, schedule = plain(config.optimizer.optimizer), plain(config.optimizer.schedule)
    rates = [optimizer["lr"] * factor for factor in (1, schedule["start"], schedule["final"])]
    found = (*rates, config.optimizer.weight_decay, config.run.epochs, schedule["warmup"])
    assert found == pytest.approx(NUMBERS[recipe, method], rel=0.011, abs=0)  # shares are rounded
    assert optimizer["betas"] == [0.9, 0.98]
    assert optimizer["eps"] == (1e-6 if method == "pyramidclip" else 1e-8)
    assert (config.batch_size, config.run.episodes, config.trainer.gradient_clip_val) == (4096, None, None)
    assert start_of(config) is None


@pytest.mark.parametrize(
    ("recipe", "method", "views"),
    [
        ("benchmark", "clip", {"image": 0.5}),
        ("benchmark", "slip", {"image": 0.5, "ssl_1": 0.2, "ssl_2": 0.2}),
        ("paper", "slip", {"image": 0.5, "ssl_1": 0.08, "ssl_2": 0.08}),
        ("upstream", "slip", {"image": 0.5, "ssl_1": 0.08, "ssl_2": 0.08}),
        ("benchmark", "filip", {"image": 0.2}),
        ("benchmark", "declip", {"image": 0.2, "image_2": 0.2}),
        ("upstream", "defilip", {"image": 0.2, "image_2": 0.2}),
        ("paper", "pyramidclip", {"image": 0.5, "local": 0.5, "global": 0.9}),
    ],
)
def test_views_of_a_recipe(recipe: str, method: str, views: dict[str, float]) -> None:
    found = plain(composed(f"recipe={recipe}", f"method={method}").views.image_views)
    assert {name: view["crop_scale"] for name, view in found.items()} == {n: [least, 1.0] for n, least in views.items()}
    strong = {"flip": 0.5, "jitter": [0.4, 0.4, 0.4, 0.1], "jitter_probability": 0.8, "grayscale": 0.2, "blur": 0.5}
    for view in found.values():
        least = view.pop("crop_scale")[0]
        assert view.items() >= strong.items() if least <= 0.2 else len(view) == 1


@pytest.mark.parametrize("method", ["declip", "defilip"])
@pytest.mark.parametrize(("recipe", "first", "others"), [("benchmark", 0.1, 0.3), ("paper", 0.4, 0.2)])
def test_weights_of_declip(recipe: str, method: str, first: float, others: float) -> None:
    terms = composed(f"recipe={recipe}", f"method={method}").terms
    weights = {name: term.weight for name, term in terms.items()}
    assert (weights.pop("image_text"), weights.pop("multi_view")) == (first, others)
    assert set(weights.values()) == {0.2}
    assert ("tokens" in weights) == (method == "defilip")


@pytest.mark.parametrize(("recipe", "method"), [("benchmark", "protoclip"), ("upstream", "pyramidclip")])
def test_a_recipe_that_is_not_published_is_refused(
    recipe: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, *TINY_METHODS[method], f"runs={tmp_path}"]
    assert train([f"recipe={recipe}", f"method={method}", *words]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"method={method} has no recipe={recipe}: choose recipe=matched\n")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


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
