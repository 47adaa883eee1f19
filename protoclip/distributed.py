"""What processes that train one model tell each other; with a single process everything is the identity.

All but ``rank``, ``world_size`` and ``local_rows`` are collectives: every process calls them, in the same order.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed._functional_collectives import all_gather_tensor_autograd  # what torch names for the future

T = TypeVar("T")


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def leave() -> None:
    """Part from the other processes, before the interpreter goes: gloo's threads would abort it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def local_rows(count: int) -> slice | None:
    """The rows of this process, ``count`` of them, in the result of ``all_gather``; None (all) with one process."""
    return slice(rank() * count, (rank() + 1) * count) if world_size() > 1 else None


def all_gather(local: Tensor) -> Tensor:
    """Rows of all processes in the order of the ranks [world * batch, ...], with gradient.

    The gradient of a row is the sum over the processes that used it. DDP takes the mean over processes, so the mean of
    local losses that each average over ``local_rows`` has the gradient of one process on the whole batch.

    Args:
        local: rows of this process [batch, ...], as many on every process.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = all_gather_tensor_autograd(local.contiguous(), 0, distributed.group.WORLD)  # type: ignore[arg-type]
    return gathered


def gather(value: T) -> list[T]:
    """The values of all processes by rank, on rank 0; elsewhere nothing. Tensors may differ in shape."""
    if world_size() == 1:
        return [value]
    gathered: list[T | None] | None = [None] * world_size() if rank() == 0 else None
    distributed.gather_object(value, gathered)
    return gathered or []  # type: ignore[return-value]


def on_rank_zero(function: Callable[[], T]) -> T:
    """Call a function on rank 0 alone; its result, or its ``ValueError``, arrives on every process."""
    if world_size() == 1:
        return function()
    outcome: list[T | ValueError | None] = [None]
    if rank() == 0:
        try:
            outcome = [function()]
        except ValueError as mistake:  # the user's: all processes end with it, instead of waiting for rank 0
            outcome = [mistake]
    distributed.broadcast_object_list(outcome)
    if isinstance(outcome[0], ValueError):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]


def broadcast_buffers(module: nn.Module) -> None:
    """Give every process the buffers of rank 0, in place."""
    if world_size() > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def mean_gradients(module: nn.Module) -> None:
    """Put the mean over the processes into every parameter's gradient, in place."""
    if world_size() > 1:
        for parameter in module.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= world_size()


def total(values: Tensor, device: torch.device) -> Tensor:
    """Sum over the processes, each of which trains on its own device; of booleans, how many are true."""
    if world_size() > 1:
        values = values.to(device, torch.int64 if values.dtype == torch.bool else values.dtype, copy=True)
        distributed.all_reduce(values)
    return values


def mean_figures(figures: Mapping[str, Tensor | float], device: torch.device) -> dict[str, Tensor | float]:
    """Means over the processes of scalars by name, the same names on every process, in one message."""
    if world_size() == 1:
        return dict(figures)
    values = torch.stack([torch.as_tensor(value, device=device) for value in figures.values()])
    return dict(zip(figures, total(values, device) / world_size(), strict=True))
