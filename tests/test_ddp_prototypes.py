"""Two processes whose shares of a partial bank differ compute what one does."""

from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from callbacks.episode_features import RecordedFeatures
from protoclip.distributed import local_rows, total, world_size
from protoclip.prototypes import Assignment, PrototypeBank
from protoclip.terms import FeatureKey, Prototype, StepInputs
from tests.gloo import Pool
from tests.test_ddp import Seen, trained

BATCH, DIM, COUNT = 8, 4, 3
CPU = torch.device("cpu")


# The term ------------------------------------------------------------------------------------------------------------
def partial_bank(labelled: list[int]) -> PrototypeBank:
    bank, positions = PrototypeBank(BATCH, DIM, num_prototypes=COUNT), torch.tensor(labelled, dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    sides = []
    for _ in ("image", "text"):
        labels = torch.randint(0, COUNT, (BATCH,), generator=generator)[positions]
        prototypes, centroids = (0.5 * torch.randn(COUNT, DIM, generator=generator) for _ in range(2))
        sides.append(Assignment(labels, prototypes, centroids, torch.bincount(labels, minlength=COUNT)))
    image, text = sides
    bank.write(0, image, text, positions)
    return bank


def step(labelled: list[int]) -> tuple[list[Tensor], dict[str, float]]:
    """Gradients of a layer for each modality and of the scale, and all figures, as means over the processes."""
    generator = torch.Generator().manual_seed(2)
    rows = local_rows(BATCH // world_size()) or slice(None)
    draws = [torch.randn(size, DIM, generator=generator, dtype=torch.float64) for size in (DIM, BATCH, DIM, BATCH)]
    layers = [draws[0].requires_grad_(), draws[2].requires_grad_()]
    features = {
        FeatureKey(tower, tower, "prototype"): normalize(given[rows] @ layer, dim=1)
        for tower, layer, given in zip(("image", "text"), layers, draws[1::2], strict=True)
    }
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    banks = {"prototype": partial_bank(labelled)}
    results = Prototype()(StepInputs(features, {"prototype": scale}, banks, torch.arange(BATCH)[rows], block=0))
    gradients = torch.autograd.grad(results["loss"], [*layers, scale])
    figures = {name: float(total(value.detach().double(), CPU)) / world_size() for name, value in results.items()}
    return [total(gradient, CPU) / world_size() for gradient in gradients], figures


def step_of_local_means(labelled: list[int]) -> tuple[list[Tensor], dict[str, float]]:
    """The mistake: each process' mean counts alike, however many rows are in it."""
    with patch("protoclip.terms.prototype.world_size", return_value=1):
        return step(labelled)


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest, relative to the gradient."""
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


@pytest.mark.parametrize("labelled", [[0, 1, 3, 5, 6], [4], [1, 2, 3], [0, 1, 4, 5]])
def test_gradients_of_a_partial_bank(pool: Pool, labelled: list[int]) -> None:
    gradients, figures = step(labelled)
    for found, told in pool(step, labelled):
        assert error(found, gradients) <= 1e-6
        assert told == pytest.approx(figures, rel=1e-6)


@pytest.mark.parametrize("labelled", [[0, 1, 3, 5, 6], [4]])
def test_a_mean_of_local_means_is_found(pool: Pool, labelled: list[int]) -> None:
    gradients, _ = step(labelled)
    assert all(error(found, gradients) > 1e-2 for found, _ in pool(step_of_local_means, labelled))


def test_nobody_takes_part_anywhere(pool: Pool) -> None:
    for gradients, figures in pool(step, []):
        assert not any(bool(gradient.any()) for gradient in gradients)
        assert set(figures.values()) == {0.0}


# A run ---------------------------------------------------------------------------------------------------------------
RECORDED = (
    *("prototype.features=recorded", "prototype.fresh_share=0.04"),  # one pair: the second process extracts none
    *("prototype.warmup_episodes=1", "episode.replacement=true"),  # a pair may come twice, on either process
)


def recorded(runs: Path) -> Seen:
    return trained(runs, "protoclip", *RECORDED)


def files(runs: Path) -> dict[str, np.ndarray]:
    (folder,) = runs.rglob("recorded")
    return {name: np.load(folder / f"{name}.npy") for name in ("features", "visited")}


def test_a_recorded_run_follows_one_process(pool: Pool, tmp_path: Path) -> None:
    one = recorded(tmp_path / "one")
    first, second = pool(recorded, tmp_path / "two")
    means = [sum(pair) / 2 for pair in zip(first.losses, second.losses, strict=True)]
    assert means == pytest.approx(one.losses, rel=1e-6)
    assert bool(one.state["banks.prototype.partial"])
    for name, value in one.state.items():
        assert torch.equal(first.state[name], second.state[name]), name
        torch.testing.assert_close(first.state[name], value, rtol=1e-6, atol=1e-9, msg=name)
    together, alone = files(tmp_path / "two"), files(tmp_path / "one")
    assert np.array_equal(together["visited"], alone["visited"])
    assert np.array_equal(together["features"], alone["features"])


def goes_on_without_its_files(folder: Path) -> str:
    recorded = RecordedFeatures(str(folder), 0.0)
    with pytest.raises(ValueError, match="remove the run and start again") as caught:
        recorded.open(Mock(current_epoch=1), pairs=10, dim=4)
    return str(caught.value)


def test_all_processes_end_where_the_record_is_gone(pool: Pool, tmp_path: Path) -> None:
    first, second = pool(goes_on_without_its_files, tmp_path)
    assert first == second
