from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from protoclip.micro_batch import FeatureCache
from protoclip.terms import FeatureKey
from tests.gloo import Pool
from tests.test_ddp import SUMS, assert_same_gradients, gradients, trained

KEY = FeatureKey("image", "image", "features")


class Encoder(nn.Module):
    """Rows to features, with draws and batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
        self.seen: list[Tensor] = []

    def forward(self, views: dict[str, Tensor]) -> dict[FeatureKey, Tensor]:
        features = self.layers(views["image"])
        self.seen.append(features.detach().clone())
        return {KEY: features}


@pytest.mark.parametrize(("trains", "size"), [*((trains, 4) for trains in SUMS), ("prototype", 1), ("prototype", 8)])
def test_gradients_are_those_of_the_whole_batch(tmp_path: Path, trains: str, size: int) -> None:
    method, words = SUMS[trains]
    words = (*words, "+trainer.max_steps=3")
    whole = trained(tmp_path / "whole", method, *words)
    parts = trained(tmp_path / "parts", method, *words, f"micro_batch={size}")
    assert_same_gradients(parts.gradients, whole.gradients)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-9)
    assert len(whole.losses) == 3


def test_gradients_of_two_processes(pool: Pool, tmp_path: Path) -> None:
    expected = gradients(tmp_path / "one", "image_text")
    for found in pool(of_parts, tmp_path / "two"):
        assert_same_gradients(found, expected)


def of_parts(runs: Path) -> dict[str, Tensor]:
    method, words = SUMS["image_text"]
    return trained(runs, method, *words, "+trainer.max_steps=2", "micro_batch=2").gradients


def test_the_second_pass_has_the_draws_of_the_first() -> None:
    torch.manual_seed(0)
    encoder = Encoder()
    cache = FeatureCache(encoder, encoder, {"image": torch.randn(6, 4).double()}, 2)
    torch.autograd.backward(cache.features[KEY].square().sum())
    state = torch.get_rng_state()
    cache.backward(torch.enable_grad)
    first, second = encoder.seen[:3], encoder.seen[3:]
    assert torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_statistics_are_counted_once() -> None:
    torch.manual_seed(0)
    encoder, rows = Encoder(), torch.randn(6, 4).double()
    norm = encoder.layers[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    expected = nn.BatchNorm1d(8).double()
    with torch.no_grad():
        for start in (0, 2, 4):
            expected(encoder.layers[0](rows[start : start + 2]))
    cache = FeatureCache(encoder, encoder, {"image": rows}, 2)
    assert torch.equal(norm.running_mean, torch.zeros(8))
    torch.autograd.backward(cache.features[KEY].sum())
    cache.backward(torch.enable_grad)
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    torch.testing.assert_close(norm.running_var, expected.running_var)


def test_a_graph_holds_no_more_than_one_part() -> None:
    """Bytes that autograd keeps for the backward pass, at their most."""

    def most(size: int) -> int:
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4))
        kept: list[int] = [0]

        def encode(views: Mapping[str, Tensor]) -> dict[FeatureKey, Tensor]:
            kept.append(0)
            with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
                return {KEY: encoder(views["image"])}

        def count(value: Tensor) -> Tensor:
            kept[-1] += value.nbytes if not isinstance(value, nn.Parameter) else 0
            return value

        cache = FeatureCache(encoder, encode, {"image": torch.randn(64, 64)}, size)
        torch.autograd.backward(cache.features[KEY].sum())
        cache.backward(torch.enable_grad)
        return max(kept)

    assert most(8) <= most(64) / 6


def test_parts_that_do_not_divide_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="micro_batch=3 does not divide the 8 pairs"):
        trained(tmp_path, "clip", "micro_batch=3", "+trainer.max_steps=1")
