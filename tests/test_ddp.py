"""Two processes compute what one does: gradients, episodes, evaluation and resume, in float64 under the real DDP.

The models have no batch statistics, which need SyncBatchNorm and so a GPU, except where a test says so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from callbacks.evaluation import Evaluation, TaskResult
from datamodules.scenes import SceneObjects, ScenePairs
from protoclip.checkpoints import read_checkpoint
from protoclip.distributed import local_rows, rank, world_size
from protoclip.divergence import NonFiniteError
from protoclip.evaluation import KNN, Retrieval, ZeroShot
from tests.gloo import Pool
from tests.tiny import Built, build, locked, tiny_config

VIT = (
    "towers=small_vit",
    "+towers.vision_cfg={width:16,layers:1,head_width:8,patch_size:16}",
    "trainer.precision=64-true",
    "trainer.log_every_n_steps=1",
    "run.episodes=3",
)
LAYER_NORM = {
    "protoclip": ("heads.prototype.norm=layer",),
    "slip": ("heads.simclr.norm=layer",),
    "declip": ("heads.simsiam.norm=layer",),
    "defilip": ("heads.simsiam.norm=layer",),
}
PROTOTYPES_ALONE = ("prototype.warmup_episodes=0", "terms.image_text.weight=0.0")


@dataclass
class Seen(Callback):
    """What every step left behind, in this process."""

    stop_after: int | None = None
    losses: list[float] = field(default_factory=list)
    logged: list[float] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """Of the last step."""
    state: dict[str, Tensor] = field(default_factory=dict)
    """Of the module at the end."""

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer.strategy.model, DistributedDataParallel) == (world_size() > 1)
        named = pl_module.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        assert len(self.gradients) == sum(parameter.requires_grad for parameter in pl_module.parameters())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Mapping[str, Tensor], _: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.logged.append(float(trainer.callback_metrics["train/loss"]))
        self.positions.append(batch["position"].tolist())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= trainer.current_epoch + 1 == self.stop_after

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


def built(runs: Path, method: str, *words: str) -> Built:
    """Of as many processes as there are."""
    return build(tiny_config(runs, method, f"trainer={'ddp_sim' if world_size() > 1 else 'default'}", *words))


def trained(runs: Path, method: str, *words: str) -> Seen:
    seen = Seen()
    built(runs, method, *VIT, *LAYER_NORM.get(method, ()), *words).fit(seen)
    return seen


# Gradients -----------------------------------------------------------------------------------------------------------
SUMS = {
    "image_text": ("protoclip", ()),
    "prototype": ("protoclip", PROTOTYPES_ALONE),
    "sigmoid": ("clip", ("terms.image_text.loss=sigmoid", "temperatures.clip.bias=-2.0")),
    **{method: (method, ()) for method in ("slip", "filip", "declip", "defilip")},
    "symmetric": ("declip", ("terms.nearest_neighbour.symmetric=true",)),
    "pyramidclip": ("pyramidclip", ("towers.roi_blocks=1",)),
}
"""Method and words by what is trained."""


def gradients(runs: Path, trains: str) -> dict[str, Tensor]:
    """Of the second step; a queue of texts is empty in the first."""
    method, words = SUMS[trains]
    return trained(runs, method, *words, "+trainer.max_steps=2").gradients


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Tensor]]:
    """The gradients of one process, which are computed once."""
    return cache(lambda trains: gradients(tmp_path_factory.mktemp("one"), trains))


def without_gradient(local: Tensor) -> Tensor:
    """The mistake: other processes' rows are constants."""
    rows: list[Tensor] = [torch.empty_like(local) for _ in range(world_size())]
    torch.distributed.all_gather(rows, local.detach())
    everyone = torch.cat(rows)
    everyone[local_rows(len(local))] = local
    return everyone


def wrong_gradients(runs: Path, module: str, trains: str) -> dict[str, Tensor]:
    with patch(f"protoclip.terms.{module}.all_gather", without_gradient):
        return gradients(runs, trains)


def assert_same_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = float((found[name] - gradient).norm())
        assert error <= 1e-6 * float(gradient.norm()) + 1e-15, name  # some are zero: a bias that only softmax sees


@pytest.mark.parametrize("trains", SUMS)
def test_gradients_of_every_parameter(
    pool: Pool, tmp_path: Path, one_process: Callable[[str], dict[str, Tensor]], trains: str
) -> None:
    expected = one_process(trains)
    if trains in {"image_text", "prototype"}:
        scales = {name.split(".")[1] for name, value in expected.items() if name.startswith("temp") and bool(value)}
        assert scales == {"clip" if trains == "image_text" else "prototype"}
    for found in pool(gradients, tmp_path, trains):
        assert_same_gradients(found, expected)


@pytest.mark.parametrize(
    ("module", "trains"),
    [
        ("image_text", "image_text"),
        ("image_text", "sigmoid"),
        ("image_text", "pyramidclip"),
        ("image_ssl", "slip"),
        ("nearest_neighbour", "symmetric"),
        ("tokens", "filip"),
    ],
)
def test_a_gather_without_gradient_is_found(
    pool: Pool, tmp_path: Path, one_process: Callable[[str], dict[str, Tensor]], module: str, trains: str
) -> None:
    found, _ = pool(wrong_gradients, tmp_path, module, trains)
    with pytest.raises(AssertionError):
        assert_same_gradients(found, one_process(trains))


# Episodes ------------------------------------------------------------------------------------------------------------
def test_a_process_may_have_an_extraction_batch_more(pool: Pool, tmp_path: Path) -> None:
    words = ("episode.size=33", "+datamodule.evaluation_batch_size=16")  # 17 and 16 pairs: two batches and one
    one = trained(tmp_path / "one", "protoclip", *words)
    for found in pool(trained, tmp_path / "two", "protoclip", *words):
        assert len(found.losses) == len(one.losses) == 12


@pytest.mark.parametrize(
    ("method", "words"),
    [("clip", ()), ("protoclip", ()), ("protoclip", (locked(0.7),))],
    ids=["clip", "protoclip", "locked"],
)
def test_three_episodes_follow_one_process(pool: Pool, tmp_path: Path, method: str, words: tuple[str, ...]) -> None:
    one = trained(tmp_path / "one", method, *words)
    first, second = pool(trained, tmp_path / "two", method, *words)
    batches = [left + right for left, right in zip(first.positions, second.positions, strict=True)]
    assert batches == one.positions
    assert len(one.losses) == 12
    means = [sum(pair) / 2 for pair in zip(first.losses, second.losses, strict=True)]
    assert means == pytest.approx(one.losses, rel=1e-9)
    assert first.losses != pytest.approx(second.losses, rel=1e-3)
    assert first.logged == second.logged == pytest.approx(one.losses, rel=1e-6)
    for name, value in one.state.items():
        assert torch.equal(first.state[name], second.state[name]), name
        torch.testing.assert_close(first.state[name], value, rtol=1e-6, atol=1e-9, msg=name)
    assert (method == "protoclip") == ("banks.prototype.image.labels" in first.state)


# Evaluation ----------------------------------------------------------------------------------------------------------
def evaluated(runs: Path) -> tuple[dict[str, float], dict[str, TaskResult], dict[str, int]]:
    """Metrics of validation and test, on sets of 3, 1 and 2 batches."""
    run = built(runs, "protoclip", *VIT, *LAYER_NORM["protoclip"], "run.episodes=1")
    pairs, few = (ScenePairs("val", size, image_size=32) for size in (37, 7))
    objects = SceneObjects("test", 20, image_size=32)
    run.datamodule.validation = {"pairs": pairs, "few": few, "objects": objects}
    run.datamodule.test = {"few": few}
    run.datamodule.evaluation_batch_size = 16
    evaluation = next(callback for callback in run.callbacks if isinstance(callback, Evaluation))
    evaluation.tasks["validation"] = {
        "pairs": Retrieval("pairs"),
        "few": Retrieval("few"),
        "zero_shot": ZeroShot("objects"),
        "knn": KNN("objects", "pairs", k=3),
    }
    evaluation.tasks["test"] = {"few": Retrieval("few")}
    run.fit()
    metrics = {
        name: float(value) for name, value in run.trainer.callback_metrics.items() if name.startswith("validation/")
    }
    sizes = {name: len(found.labels) for name, found in evaluation.extracted.items()}
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    return metrics, evaluation.results, sizes


def test_evaluation_is_that_of_one_process(pool: Pool, tmp_path: Path) -> None:
    """Rank 1 has no batch of the smallest set, in test none at all."""
    metrics, results, sizes = evaluated(tmp_path / "one")
    assert sizes == {"pairs": 37, "few": 7, "objects": 20}
    assert {"validation/loss", "validation/loss_1", "validation/zero_shot/top1"} <= metrics.keys()
    assert "validation/loss_2" not in metrics
    first, second = pool(evaluated, tmp_path / "two")
    assert first[0] == second[0] == pytest.approx(metrics, rel=1e-6)
    assert first[1] == second[1]
    assert first[1]["few"].metrics == pytest.approx(results["few"].metrics, rel=1e-6)
    assert first[1]["few"].counts == results["few"].counts
    assert (first[2], second[2]) == (sizes, {})


# Divergence ----------------------------------------------------------------------------------------------------------
@dataclass
class Poison(Callback):
    """After two episodes a part of the second process' model gives what is not a number."""

    part: str

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1 and rank() == 1:
            pl_module.get_submodule(self.part).register_forward_hook(self.spoil)

    @staticmethod
    def spoil(module: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.index_fill(0, torch.tensor([3, 5]), float("nan"))
        return {**output, "loss": output["loss"] * float("nan")}


def diverged(runs: Path, part: str) -> dict[str, Any]:
    """What this process says of its end, after it has found the diagnostic checkpoint."""
    run = built(runs, "protoclip", *VIT, *LAYER_NORM["protoclip"])
    with pytest.raises(NonFiniteError) as raised:
        run.fit(Poison(part))
    saved = read_checkpoint(run.checkpoints / "diagnostic.ckpt")
    assert saved["global_step"] == 8
    assert all(torch.equal(saved["state_dict"][name], value) for name, value in run.module.named_parameters())
    return raised.value.facts()


def test_all_stop_where_the_loss_of_one_is_not_finite(pool: Pool, tmp_path: Path) -> None:
    first, second = pool(diverged, tmp_path, "terms.image_text")
    assert math.isfinite(first["terms"]["image_text"])
    assert math.isnan(second["terms"]["image_text"])
    assert (first["step"], first["episode"]) == (second["step"], second["episode"]) == (8, 2)
    assert not set(first["positions"]) & set(second["positions"])


def test_all_stop_where_the_features_of_one_are_not_finite(pool: Pool, tmp_path: Path) -> None:
    first, second = pool(diverged, tmp_path, "heads.prototype.text")
    assert first == second
    assert first["positions"] == [16 + 3, 16 + 5]  # the second half of the episode is the second process'
    assert (first["step"], first["episode"], first["features"]) == (8, 2, ["text/text/prototype"])
    plan = built(tmp_path, "protoclip").datamodule.plan
    assert first["indices"] == plan.indices(2)[[19, 21]].tolist()


# Resume --------------------------------------------------------------------------------------------------------------
def resumed(runs: Path, stop_after: int | None) -> Seen:
    """A run that goes on where its last checkpoint stands; each process has running statistics of its own."""
    run, seen = built(runs, "protoclip", "run.episodes=3", "trainer.log_every_n_steps=1"), Seen(stop_after)
    last = run.checkpoints / "last.ckpt"
    run.fit(seen, resume=last if last.exists() else None)
    return seen


def test_a_resumed_run_is_the_uninterrupted_one(pool: Pool, tmp_path: Path) -> None:
    whole = pool(resumed, tmp_path / "whole", None)
    before = pool(resumed, tmp_path / "stopped", 2)
    after = pool(resumed, tmp_path / "stopped", None)
    for process in (0, 1):
        assert before[process].positions + after[process].positions == whole[process].positions
        assert before[process].losses + after[process].losses == whole[process].losses
        assert len(before[process].losses) == 8
        for name, value in whole[0].state.items():
            assert torch.equal(after[process].state[name], value), name
    assert any(name.endswith("running_var") for name in whole[0].state)
