"""Two processes learn from external teachers as one does: gradients of the real module in float64, and the banks."""

from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor, equal
from torch.testing import assert_close

from protoclip.distributed import world_size
from protoclip.module import ImageTextPretraining
from tests.gloo import Pool
from tests.teachers import fill_caches
from tests.test_ddp import LAYER_NORM, VIT, Seen, assert_same_gradients, without_gradient
from tests.tiny import build, tiny_config

TEACHER = ("teacher=minilm", "teachers.minilm.dims=6", "prototype.weight=0")
ALONE = ("terms.image_text.weight=0.0", "prototype.warmup_episodes=0")
TERMS = {
    "minilm": (),
    "affinity": ("distillation=affinity", "teacher.weight=0"),
    "feature": ("distillation=feature", "teacher.weight=0"),
}


def configured(runs: Path, *words: str) -> DictConfig:
    """Of as many processes as there are; all read the same cache."""
    processes = f"trainer={'ddp_sim' if world_size() > 1 else 'default'}"
    cache = f"teacher.cache={runs.parent / 'teachers'}"
    return tiny_config(runs, "protoclip", processes, *VIT, *LAYER_NORM["protoclip"], *TEACHER, cache, *words)


# Gradients -----------------------------------------------------------------------------------------------------------
def gradients(runs: Path, term: str) -> dict[str, Tensor]:
    seen = Seen()
    build(configured(runs, *TERMS[term], *ALONE, "+trainer.max_steps=1")).fit(seen)
    return seen.gradients


def wrong_gradients(runs: Path) -> dict[str, Tensor]:
    with patch("protoclip.terms.distillation.all_gather", without_gradient):
        return gradients(runs, "affinity")


def one_process(folder: Path, term: str) -> dict[str, Tensor]:
    fill_caches(configured(folder / "one", *TERMS[term]))
    return gradients(folder / "one", term)


@pytest.mark.parametrize(
    ("term", "trains"),
    [
        ("minilm", "temperatures.prototype.log_scale"),
        ("affinity", "temperatures.distillation.log_scale"),
        ("feature", "heads.distillation.image.linear.weight"),
    ],
)
def test_gradients_of_every_parameter(pool: Pool, tmp_path: Path, term: str, trains: str) -> None:
    expected = one_process(tmp_path, term)
    assert float(expected[trains].abs().sum()) > 0
    for found in pool(gradients, tmp_path / "two", term):
        assert_same_gradients(found, expected)


def test_a_gather_without_gradient_is_found(pool: Pool, tmp_path: Path) -> None:
    expected = one_process(tmp_path, "affinity")
    found, _ = pool(wrong_gradients, tmp_path / "two")
    with pytest.raises(AssertionError):
        assert_same_gradients(found, expected)


# Banks ---------------------------------------------------------------------------------------------------------------
@dataclass
class Banks(Callback):
    """The banks behind each refresh."""

    states: list[dict[str, Tensor]] = field(default_factory=list)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, number: int
    ) -> None:
        assert isinstance(pl_module, ImageTextPretraining)
        if number == 0:
            self.states.append({name: value.clone() for name, value in pl_module.banks.state_dict().items()})


def banks(runs: Path, scope: str) -> list[dict[str, Tensor]]:
    seen = Banks()
    build(configured(runs, f"teacher.scope={scope}", "prototype.warmup_episodes=0", "run.episodes=2")).fit(seen)
    return seen.states


@pytest.mark.parametrize("scope", ["episode", "corpus"])
def test_banks_are_equal_after_every_refresh(pool: Pool, tmp_path: Path, scope: str) -> None:
    fill_caches(configured(tmp_path / "one"))
    expected = banks(tmp_path / "one", scope)
    first, second = pool(banks, tmp_path / "two", scope)
    assert len(expected) == len(first) == len(second) == 2
    for episode, state in enumerate(expected):
        for name, value in state.items():
            assert equal(first[episode][name], second[episode][name]), name
            assert_close(first[episode][name], value, rtol=1e-6, atol=1e-9, msg=name)  # labels among them
    assert not equal(expected[0]["minilm.image.labels"], expected[1]["minilm.image.labels"])
