from pathlib import Path

import pytest
from omegaconf import OmegaConf

from protoclip.cli.translate import RUN_DIR, RUNS, leaves, nodes, origin, place, translate, translated, untranslated
from tests.conftest import Compose


def test_targets_become_class_paths(compose_tiny: Compose) -> None:
    settings = translate(compose_tiny())
    assert settings["seed_everything"] == 0
    assert settings["model"]["terms"]["image_text"]["class_path"] == "protoclip.terms.ImageText"
    assert settings["model"]["terms"]["image_text"]["init_args"]["pairs"] == [["image", "text"]]
    assert settings["data"]["plan"]["init_args"]["size"] == 32
    assert settings["run"] | {"runs": ""} == {
        "name": "protoclip-scenes", "method": "protoclip", "runs": "", "towers": "small-resnet",
        "corpus": "scenes", "episodes": 4, "epochs": None,
    }  # fmt: skip
    assert not any("_target_" in path or (value is None and path == ()) for path, value in nodes(settings))


def test_callbacks_and_loggers_become_lists(compose_tiny: Compose) -> None:
    config = compose_tiny("clip", "logger=default")
    trainer = translate(config)["trainer"]
    assert [node["class_path"] for node in trainer["callbacks"]] == [
        node._target_ for node in config.callbacks.values()
    ]
    assert len(trainer["logger"]) == 2


def test_the_run_directory_stays_open(compose_tiny: Compose) -> None:
    config = compose_tiny("clip", "logger=default", "run_dir=elsewhere")
    settings = translate(config)
    open_ones = {path: value for path, value in leaves(settings) if RUN_DIR in str(value)}
    assert len(open_ones) == 5  # two checkpoints, the diagnostic one, two loggers
    placed = place(settings, "here")
    for path, value in open_ones.items():
        assert dict(leaves(placed))[path] == value.replace(RUN_DIR, "here")
    assert config.run_dir == "elsewhere"


def test_the_folder_of_all_runs_stays_open_but_for_its_name(compose_tiny: Compose) -> None:
    config = compose_tiny("clip", runs=Path("mine"))
    settings = translate(config)
    assert {str(value) for _, value in leaves(settings) if RUNS in str(value)} == {f"{RUNS}/features"}
    assert settings["run"]["runs"] == config.runs == "mine"
    assert "mine/features" in {str(value) for _, value in leaves(place(settings, "here"))}


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("datamodule.plan.size", "episode.size"),
        ("model.banks.prototype.episode_size", "episode.size"),
        ("model.terms.prototype.target_temperature", "prototype.target_temperature"),
        ("trainer.check_val_every_n_epoch", "evaluation.every"),
        ("datamodule.train.image_size", "towers.image_size"),
        ("model.optimizer.lr", "optimizer.optimizer.lr"),
        ("model.optimizer.unheard_of", "optimizer.optimizer.unheard_of"),
        ("callbacks.checkpoint_best.dirpath", "callbacks.checkpoint_best.dirpath"),
    ],
)
def test_origin(compose_tiny: Compose, path: str, option: str) -> None:
    assert origin(compose_tiny(), path.split(".")) == option


def test_leaves_hold_no_others() -> None:
    tree = OmegaConf.to_container(OmegaConf.create({"a": {"b": [1, {"c": None}], "d": {}}, "e": "x"}))
    assert dict(leaves(tree)) == {("a", "b", "0"): 1, ("a", "b", "1", "c"): None, ("a", "d"): {}, ("e",): "x"}


def test_back_to_targets(compose_tiny: Compose) -> None:
    model = OmegaConf.to_container(compose_tiny().model, resolve=True)
    assert untranslated(translated(model)) == model
    assert untranslated({"init_args": [{"class_path": "a.B", "init_args": {}}]}) == {"init_args": [{"_target_": "a.B"}]}
