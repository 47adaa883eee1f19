"""The temperature and the preprocessing that an export has are the run's."""

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from protoclip.cli import main
from protoclip.cli.translate import translate
from protoclip.open_clip_folder import open_clip_state
from protoclip.runs import load
from protoclip.towers import create_towers, preprocessing
from tests.conftest import Compose
from tests.tiny import build


def run_of(folder: Path, compose_tiny: Compose, *words: str) -> Path:
    """A run directory with a checkpoint that was not trained."""
    config = compose_tiny("clip", *words, runs=folder)
    module = build(config).module
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "lightning.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(translate(config))))
    saved = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2"}
    torch.save(saved, folder / "run" / "checkpoints" / "best.ckpt")
    return folder / "run" / "checkpoints" / "best.ckpt"


def test_a_checkpoint_of_a_run(compose_tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("terms.image_text.loss=sigmoid", "temperatures.clip={init:0.1,bias:-8}", "+datamodule.std=[0.5,0.5,0.5]")
    ckpt = run_of(tmp_path, compose_tiny, *words)
    assert main(["export", str(ckpt), str(tmp_path / "out")]) == 0
    assert f'create_model_and_transforms("local-dir:{tmp_path}/out")' in capsys.readouterr().out
    towers = create_towers(f"local-dir:{tmp_path}/out")
    assert towers.log_scale == pytest.approx(math.log(10))
    assert towers.logit_bias == -8
    assert preprocessing(f"local-dir:{tmp_path}/out")["std"] == [0.5, 0.5, 0.5]
    one, two = (open_clip_state(pair, log_scale=0) for pair in (towers, load(ckpt)[0].towers))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_mistakes(compose_tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ckpt = run_of(tmp_path, compose_tiny)
    outside = ckpt.rename(tmp_path / "outside.ckpt")
    for source, line in (
        (tmp_path / "nothing", "no file "),
        (tmp_path / "run", "holds no checkpoint: give a directory runs/NAME/HASH of a run that was trained"),
        (outside, "outside.ckpt is in no run directory: give runs/NAME/HASH, or a file in its folder checkpoints"),
    ):
        assert main(["export", str(source), str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert line in told
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_model(
    compose_tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ckpt = run_of(tmp_path / "clip", compose_tiny)
    other = run_of(tmp_path / "other", compose_tiny, "towers.embed_dim=8")
    other.replace(ckpt)
    assert main(["export", str(ckpt), str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: the checkpoint is of another model (terms unknown; here image_text; ")
    assert told.endswith("or a checkpoint of this model\n")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
