"""Every yaml of the config tree composes and instantiates; CLIP and ProtoCLIP differ in prototypes alone."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.utils import instantiate as instantiate_here
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy

from callbacks.evaluation import Evaluation
from datamodules.region_cache import RegionCache
from datamodules.summary_cache import SummaryCache
from protoclip.checkpoints import AtomicCheckpointIO
from protoclip.cli.build import (
    build_datamodule,
    build_module,
    build_trainer,
    check_teachers,
    check_views,
    find_run,
)
from protoclip.cli.translate import leaves, translate, translated
from protoclip.detector import Detector
from protoclip.instantiate import instantiate
from protoclip.summarisers import Summariser
from protoclip.sync_batchnorm import SyncBatchNorms
from tests.conftest import TINY, Compose
from tests.corpora import CAPTIONS, write_corpora
from tests.teachers import fill_caches

CONF = Path(__file__).parent.parent / "conf"
PARTS = {"teacher_parts", "term_parts", "set"}
"""Folders of what others are made of; tests/test_sets.py has the sets."""
YAMLS = [path for path in CONF.rglob("*.yaml") if path.parent.name not in PARTS]
NAMES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in YAMLS)
TASKS = [name for name in NAMES if name.startswith("task/")]
OPTIONS = [name for name in NAMES if name not in TASKS]
PAPERS = {"recipe/paper", "recipe/upstream", "recipe/benchmark"}
PAPERS |= {option for option in OPTIONS if option.startswith(("recipe/of/", "experiment/cc2.5m", "experiment/yfcc"))}
"""At sizes that no test builds."""
CORPORA = {f"data/{name}" for name in CAPTIONS}
OWN_DATA = {f"data/{name}" for name in ("manifest", "shards", "folder", "stream")}
NEEDS_DATA = {option for option in OPTIONS if "flickr8k" in option}
NEEDS_TEACHER = {option for option in OPTIONS if option.endswith(("/teacher", "/distillation"))}
GROUPS = {
    *("callbacks", "compare", "data", "detector", "distillation", "evaluation", "experiment", "logger"),
    *("method", "optimizer", "recipe", "summariser", "task", "teacher", "term", "towers", "trainer", "view", "views"),
}
CPU = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")
SCENES = "_target_:datamodules.scenes.ScenePairs,split:train,size:2048,image_size:32"
TOOLS: dict[str, tuple[type, type]] = {"detector": (Detector, RegionCache), "summariser": (Summariser, SummaryCache)}
"""Groups of a model that goes through a corpus once, and of what it writes."""


def words_of(option: str, manifest: Path) -> list[str]:
    if option == "config":
        return []
    group, *of, name = option.split("/")
    words = [f"{group}={name}"]
    if of:  # recipe/of/RECIPE/METHOD is chosen by both
        words = [f"recipe={of[-1]}", f"method={name}"]
    elif option == "recipe/benchmark":
        words.append("method=clip")
    elif group == "view":
        words = [f"+view@views.image_views.{name}={name}"]
    if option in CORPORA:
        words.append(f"data.path={manifest.parent}")
    if option in OWN_DATA or (option in PAPERS and group == "experiment"):
        words.append(f"data.path={manifest}")
    if option == "towers/open_clip":
        words.append("towers.name=small-vit")
    if option == "data/stream":
        words.append("data.train.lanes=1")
    if option == "data/mix":
        words += [f"+data.sources.{name}={{{SCENES},seed:{seed}}}" for seed, name in enumerate(("one", "other"))]
    if option == "data/mix_stream":
        shards = f"_target_:datamodules.streams.ShardStream,shards:{manifest.parent}/*.tar,lanes:1"
        words += [f"+data.streams.{name}={{{shards}}}" for name in ("one", "other")]
    if option in NEEDS_TEACHER or group == "distillation":
        words.append("teacher=minilm")
    return words


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / "pairs.tsv"
    path.write_text("filepath\ttitle\na.png\ta picture\n", encoding="utf-8")
    return path


@pytest.fixture
def shard(tmp_path: Path, manifest: Path) -> Path:
    import tarfile

    (tmp_path / "a.txt").write_text("a picture", encoding="utf-8")
    path = tmp_path / "pairs.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.png", "a.txt"):
            tar.add(tmp_path / name, arcname=name)
    return path


def test_groups_are_known() -> None:
    assert {name.split("/")[0] for name in NAMES if "/" in name} == GROUPS


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_complete_with_its_sets(name: str) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        fields = compose(name).task
    sets = {key: key for key in ("pictures", "train") if key in fields.keys()}  # noqa: SIM118, a missing value is not in it
    plain = translated({**OmegaConf.to_container(fields), **sets})  # type: ignore[dict-item]
    (task,) = instantiate(Evaluation, {"test": {name: plain}}, "evaluation").tasks["test"].values()
    assert task.needs == tuple(sets)


def test_tasks_are_changed_and_added_by_words() -> None:
    key = "evaluation.test.tasks"
    words = [
        f"{key}.scenes_linear_probe.C=sweep",
        f"+task@{key}.more=knn",
        f"{key}.more.k=5",
        f"{key}.more.train=objects",
    ]
    with initialize_config_module("conf", version_base="1.3"):
        before, after = (compose("config", overrides=chosen).evaluation for chosen in ([], words))
    assert (before.test.tasks.scenes_linear_probe.C, after.test.tasks.scenes_linear_probe.C) == (0.316, "sweep")
    added = {"_target_": "protoclip.evaluation.KNN", "pictures": "???", "train": "objects", "k": 5, "temperature": 0.07}
    assert after.test.tasks.more == added
    assert [*before.test.tasks, "more"] == list(after.test.tasks)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_yaml_composes_and_instantiates(
    option: str, manifest: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_folder: Path | None
) -> None:
    if option in NEEDS_DATA and data_folder is None:
        pytest.skip("PROTOCLIP_DATA is not set: the real data are absent")
    monkeypatch.setenv("PROTOCLIP_CACHE", str(tmp_path / "cache"))
    if option in CORPORA:
        write_corpora(tmp_path)
    paths = {"data/shards": shard, "data/stream": shard, "data/folder": shard.parent}
    words = words_of(option, paths.get(option, manifest))
    if (option in {"trainer/gpu", "trainer/ddp"} or option in PAPERS) and not torch.cuda.is_available():
        words.append("trainer.accelerator=cpu")  # Lightning refuses a GPU that is not there
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=[*words, f"runs={tmp_path}", f"teacher.cache={tmp_path}/teachers"])
    if option.startswith("recipe/of/"):
        assert option == f"recipe/of/{config.recipe.name}/{config.recipe.of}"
    group = option.split("/", maxsplit=1)[0]
    if group in TOOLS:
        model, rows = TOOLS[group]
        assert isinstance(instantiate_here(config[group].model), model)
        assert isinstance(instantiate_here(config[group].rows), rows)
    if option.startswith("compare/"):  # it changes no part of a run; tests/protoclip/test_comparison.py reads it
        return
    if option in OWN_DATA | CORPORA | PAPERS:
        config.episode.size = config.batch_size = 1
        if "prototype" in config:
            config.prototype.images_per_prototype = 1
            config.prototype.kmeans.device = "cpu"
    for teacher in config.teachers.values():
        teacher.dims = 1  # as many as there are captions in the smallest corpus
    datamodule = build_datamodule(fill_caches(config))
    module = build_module(config)
    check_views(module, datamodule)
    find_run(config, datamodule)
    trainer = build_trainer(config, datamodule)
    check_teachers(module, datamodule, trainer.callbacks)  # type: ignore[attr-defined]
    assert trainer.max_epochs is not None
    assert trainer.max_epochs >= 1
    evaluation = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluation))  # type: ignore[attr-defined]
    for part, sets in (("validation", datamodule.validation), ("test", datamodule.test)):
        assert list(evaluation.tasks[part]) == list(config.evaluation[part].tasks)
        assert all({*task.needs} <= {*sets, *datamodule.missing} for task in evaluation.tasks[part].values())


@pytest.mark.parametrize("synchronised", [True, False])
def test_ddp_synchronises_batch_norms_by_our_plugin(synchronised: bool, compose_tiny: Compose) -> None:
    config = compose_tiny("clip", "trainer=ddp", *CPU, f"trainer.sync_batchnorm={synchronised}")
    trainer = build_trainer(config, build_datamodule(config))
    assert isinstance(trainer._accelerator_connector._layer_sync, SyncBatchNorms) == synchronised
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def test_ddp_waits_for_the_process_that_clusters(compose_tiny: Compose) -> None:
    config = compose_tiny("protoclip", "trainer=ddp", *CPU, "trainer.sync_batchnorm=false")
    strategy = build_trainer(config, build_datamodule(config)).strategy
    assert isinstance(strategy, DDPStrategy)
    assert strategy._timeout == timedelta(hours=6)
    expected = {"broadcast_buffers": False, "find_unused_parameters": False, "gradient_as_bucket_view": True}
    assert expected.items() <= strategy._ddp_kwargs.items()
    text = OmegaConf.to_yaml(OmegaConf.create(translate(config)))
    assert yaml.safe_load(text)["trainer"]["strategy"]["init_args"]["timeout"] == "6:00:00"  # not YAML's base 60


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith("experiment/")])
def test_an_experiment_begins_with_its_command(option: str) -> None:
    header, first, *_ = (CONF / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    assert header == "# @package _global_"  # Hydra takes it from the first line alone
    program = first.removeprefix("# ").split()[0]
    assert program in {"protoclip", "protoclip-train"}
    assert f"experiment={option.removeprefix('experiment/')}" in first


def resolved(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    return {".".join(path): value for path, value in leaves(plain)}


def resolved_arms(experiment: str) -> dict[str, dict[str, Any]]:
    words = [f"experiment={experiment}"]
    with initialize_config_module("conf", version_base="1.3"):
        arms = compose("config", overrides=words).compare.arms
        return {name: resolved(compose("config", overrides=[*words, *arm.overrides])) for name, arm in arms.items()}


def changed(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    absent = object()
    return {key for key in one.keys() | other.keys() if one.get(key, absent) != other.get(key, absent)}


def test_arms_of_the_demo_differ_in_prototypes_alone() -> None:
    arms = resolved_arms("demo")
    clip, protoclip = arms["clip"], arms["protoclip"]
    assert clip == arms["clip_equal_cost"]  # its length is set from the measured cost
    keys = changed(clip, protoclip)
    empty = {f"{prefix}{name}" for prefix in ("", "model.") for name in ("heads", "banks", "phases")}
    published = {key for key in keys if key.startswith("published_view")}  # which recipe=matched does not look at
    others = {key for key in keys if "prototype" not in key} - empty - published
    assert others == {"method", "name"}
    assert all(clip.get(key) == {} for key in empty)
    assert any("prototype" in key for key in keys)


CONTROLS = {
    **{"recorded": "features", "shuffled": "labels", "no_translation": "back_translation"},
    **{"hard": "target_temperature", "no_kmeans": "iterations"},
}
"""Arms that are ProtoCLIP but for one option, and its name."""
SHARED = (
    *("seed", "run.", "episode.", "batch_size", "towers.", "views.", "optimizer.", "trainer.", "evaluation.", "recipe"),
    *("data.", "datamodule.train.", "datamodule.plan.", "datamodule.image_views.", "datamodule.text_views."),
)
"""What no arm of a comparison changes."""


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("scenes", {"data.num_pairs": 10_000, "data.train.noise": 0.2, "episode.size": 2500, "towers.image_size": 32}),
        ("flickr8k", {"run.epochs": 100, "batch_size": 128, "episode.size": 2800, "towers.image_size": 48}),
    ],
)
def test_arms_of_a_comparison_differ_in_what_they_name(
    name: str, sizes: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOCLIP_DATA", "data")
    arms = resolved_arms(f"{name}_comparison")
    protoclip = arms["protoclip"]
    assert {key: protoclip[key] for key in sizes} == sizes
    assert len(arms) == {"scenes": 12, "flickr8k": 6}[name]
    for arm, config in arms.items():
        keys = changed(config, protoclip)
        length = {"run.epochs"} if arm == "clip_equal_cost" else set()
        assert {key for key in keys if key.startswith(SHARED)} <= length, arm
        if arm in CONTROLS:
            assert {key.rpartition(".")[2] for key in keys} == {CONTROLS[arm]}


def test_every_arm_of_the_comparison_on_scenes_is_a_model() -> None:
    tiny = [word for word in TINY if word not in {"episode.size=32", "data.num_pairs=64"}]
    words = ["experiment=scenes_comparison", *tiny, "episode.size=64", "data.num_pairs=64"]
    with initialize_config_module("conf", version_base="1.3"):
        arms = compose("config", overrides=words).compare.arms
        configs = {name: compose("config", overrides=[*words, *arm.overrides]) for name, arm in arms.items()}
    terms = {}
    for name, config in configs.items():
        module = build_module(config)
        assert module.required_teachers <= set(config.teachers), name
        terms[name] = {*module.terms} - {"image_text"}
    others = {"clip": set(), "clip_equal_cost": set(), "with_teacher": {"prototype", "minilm"}}
    others |= {"teacher": {"minilm"}, "distillation": {"distillation"}}
    assert terms == {name: {"prototype"} for name in arms} | others


def test_both_towers_start_from_the_same_weights(compose_tiny: Compose) -> None:
    clip, protoclip = (build_module(compose_tiny(method)).towers.state_dict() for method in ("clip", "protoclip"))
    assert clip.keys() == protoclip.keys()
    assert all(torch.equal(clip[name], protoclip[name]) for name in clip)
