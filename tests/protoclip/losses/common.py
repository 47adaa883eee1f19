"""Inputs of losses, and steps down."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = (torch.float32, torch.float64)


def unit_rows(count: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def scale(value: float = 9.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def go_down(loss: Callable[[], Tensor], parameters: list[Tensor], steps: int = 20) -> tuple[float, float]:
    """Loss before and after gradient steps."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    first = loss().item()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return first, loss().item()
