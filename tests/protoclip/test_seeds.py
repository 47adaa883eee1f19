import numpy as np
import pytest
import torch

from protoclip.seeds import derive_seed

KNOWN = (6509058910624918404, 790008751103683503)


def test_known_values() -> None:
    """Another digest would silently change every run's draws."""
    assert derive_seed(0, "episode", 3) == KNOWN[0]
    assert derive_seed(1, "draw", 0) == KNOWN[1]


@pytest.mark.parametrize(
    "other", [(1, "episode", 3), (0, "order", 3), (0, "episode", 4), (0, "episode"), (3, "episode", 0)]
)
def test_every_part_counts(other: tuple[int | str, ...]) -> None:
    assert derive_seed(0, "episode", 3) != derive_seed(*other)


def test_parts_do_not_run_together() -> None:
    seeds = {derive_seed(*parts) for parts in ((1, 23), (12, 3), (123,), ("1", 23), ("123",), ("1, 23",))}
    assert len(seeds) == 6


def test_seeds_suit_every_generator() -> None:
    seeds = [derive_seed(0, "episode", number) for number in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # the whole range is used
    torch.Generator().manual_seed(max(seeds))
    np.random.default_rng(max(seeds))
