from itertools import permutations

import pytest
import torch

from protoclip.evaluation.ranking import expected_hits, similarity


@pytest.mark.parametrize(
    ("higher", "tied", "own", "k", "hit"),
    [
        (0, 1, 1, 1, 1.0),  # nothing tied: the rank alone decides
        (4, 1, 1, 5, 1.0),
        (5, 1, 1, 5, 0.0),
        (0, 4, 1, 1, 0.25),
        (3, 4, 1, 5, 0.5),
        (0, 3, 3, 1, 1.0),  # all tied candidates are right
        (0, 2, 1, 5, 1.0),
    ],
)
def test_expected_hits_by_hand(higher: int, tied: int, own: int, k: int, hit: float) -> None:
    result = expected_hits(torch.tensor([higher]), torch.tensor([tied]), torch.tensor([own]), k)
    assert result.item() == pytest.approx(hit)


def test_expected_hits_is_the_mean_over_all_orders() -> None:
    for tied, own, higher, k in [(5, 2, 0, 1), (5, 2, 0, 3), (5, 1, 2, 4), (4, 3, 1, 2)]:
        orders = list(permutations([True] * own + [False] * (tied - own)))
        oracle = sum(any(order[: max(0, k - higher)]) for order in orders) / len(orders)
        result = expected_hits(torch.tensor([higher]), torch.tensor([tied]), torch.tensor([own]), k)
        assert result.item() == pytest.approx(oracle)


def test_similarity_keeps_precision_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(3, 8, generator=generator), torch.randn(4, 8, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(similarity(queries, candidates), queries @ candidates.T)
        result = similarity(queries, candidates)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, queries @ candidates.T)
