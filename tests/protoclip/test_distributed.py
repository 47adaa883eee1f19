import pytest
import torch
from torch import Tensor, nn

from protoclip.distributed import (
    all_gather,
    broadcast_buffers,
    gather,
    local_rows,
    mean_figures,
    on_rank_zero,
    rank,
    total,
    world_size,
)
from tests.gloo import Pool

CPU = torch.device("cpu")


def rows(seed: int) -> Tensor:
    return torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gathered_with_gradient() -> tuple[Tensor, Tensor]:
    local = rows(rank()).requires_grad_()
    everyone = all_gather(local.T.contiguous().T)  # rows that do not lie next to each other in memory
    (everyone * (rank() + 1) * torch.arange(12).reshape(6, 2)).sum().backward()  # type: ignore[no-untyped-call]
    assert local.grad is not None
    assert torch.equal(everyone[local_rows(3)], local)
    return everyone.detach().clone(), local.grad


def test_all_gather_has_the_sum_of_all_gradients(pool: Pool) -> None:
    for place, (everyone, gradient) in enumerate(pool(gathered_with_gradient)):
        assert torch.equal(everyone, torch.cat([rows(0), rows(1)]))
        assert torch.equal(gradient, 3.0 * torch.arange(12).reshape(6, 2)[3 * place : 3 * place + 3])


def identity() -> tuple[int, int]:
    return rank(), world_size()


def test_ranks(pool: Pool) -> None:
    assert pool(identity) == [(0, 2), (1, 2)]


def uneven() -> list[dict[str, Tensor]]:
    return gather({} if rank() else {"features": torch.ones(5, 2), "labels": torch.arange(5)})


def test_gather_brings_uneven_values_to_rank_zero(pool: Pool) -> None:
    (first, second), elsewhere = pool(uneven)
    assert torch.equal(first["labels"], torch.arange(5))
    assert second == {}
    assert elsewhere == []


def scored() -> int:
    return on_rank_zero(lambda: 7 + rank())


def mistaken() -> None:
    def fail() -> None:
        raise ValueError("set it")

    on_rank_zero(fail)


def told() -> str:
    with pytest.raises(ValueError, match="set it") as caught:
        mistaken()
    return str(caught.value)


def test_what_rank_zero_does_is_everyones(pool: Pool) -> None:
    assert pool(scored) == [7, 7]
    assert pool(told) == ["set it", "set it"]
    with pytest.raises(ValueError, match="set it"):
        pool(mistaken)


def statistics() -> Tensor:
    norm = nn.BatchNorm1d(2)
    norm(rows(rank()).float())
    broadcast_buffers(norm)
    assert norm.running_mean is not None
    return norm.running_mean


def test_buffers_are_those_of_rank_zero(pool: Pool) -> None:
    first, second = pool(statistics)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, 0.1 * rows(0).float().mean(0))


def figures() -> tuple[Tensor, dict[str, float]]:
    means = mean_figures({"loss": torch.tensor(1.0 + rank(), dtype=torch.float64), "gap": 0.5 * rank()}, CPU)
    mine = torch.tensor([1.0, rank()])
    result = total(mine, CPU)
    assert mine.tolist() == [1.0, rank()]
    return result, {name: float(value) for name, value in means.items()}


def test_sums_and_means(pool: Pool) -> None:
    for sums, means in pool(figures):
        assert sums.tolist() == [2.0, 1.0]
        assert means == {"loss": 1.5, "gap": 0.25}


def test_one_process_is_left_alone() -> None:
    value = torch.ones(3, 2)
    assert all_gather(value) is value
    assert total(value, CPU) is value
    assert gather(value)[0] is value
    assert (rank(), world_size(), local_rows(3)) == (0, 1, None)
    assert on_rank_zero(lambda: value) is value
    assert mean_figures({"loss": value}, CPU) == {"loss": value}
    broadcast_buffers(nn.BatchNorm1d(2))
