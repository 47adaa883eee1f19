"""Learning rate schedule and parameter groups."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from protoclip.ranges import NonNegativeFloat, Share


class WarmupCosine:
    """Linear warm-up, then half a cosine, as a factor of the peak learning rate.

    Args:
        warmup: fraction of the run; step t of w warm-up steps has the factor start + (1 - start) (t + 1) / w.
        start: factor that the warm-up rises from.
        final: factor at the end.

    Raises:
        ValueError: a warm-up that is not in [0, 1].
    """

    def __init__(self, *, warmup: Share = 0.1, start: Share = 0.0, final: NonNegativeFloat = 0.0) -> None:
        if not 0 <= warmup <= 1:
            raise ValueError(f"schedule.warmup is a fraction of the run, not {warmup}")
        self.warmup = warmup
        self.start = start
        self.final = final

    def __call__(self, total_steps: int, *, stop: int | None = None) -> Callable[[int], float]:
        """The factor by step.

        Args:
            total_steps: optimizer steps of the run.
            stop: reach 0 at this step instead, after the same warm-up, and stay there.

        Raises:
            ValueError: a stop before the warm-up has ended.
        """
        warmup_steps = round(self.warmup * total_steps)
        last, final = (total_steps, self.final) if stop is None else (stop, 0.0)
        if stop is not None and stop <= warmup_steps:
            raise ValueError(f"a learning rate that warms up for {warmup_steps} steps cannot be 0 at step {stop}")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return self.start + (1 - self.start) * (step + 1) / warmup_steps
            progress = (step - warmup_steps) / max(1, last - warmup_steps)
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        return factor


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in four groups: image tower or rest, with weight decay or without.

    Vectors and scalars (norms, biases, temperatures) and heads that say so (``decayed``) are not decayed; embeddings
    and projection matrices are.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter, decayed in _trainable(module):
        tower = "image_tower" if name.startswith("towers.image.") else "rest"
        group = f"{tower}/{'decay' if decayed else 'no_decay'}"
        settings = {"name": group, "params": [], "weight_decay": weight_decay if decayed else 0.0}
        groups.setdefault(group, settings)["params"].append(parameter)
    return list(groups.values())


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    spared = tuple(f"{name}." for name, part in module.named_modules() if not getattr(part, "decayed", True))
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter, parameter.ndim >= 2 and not name.startswith(spared)
