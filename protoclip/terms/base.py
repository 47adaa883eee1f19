"""What a supervision term is: roles bound to views, features in, a loss out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from protoclip.prototypes import PrototypeBank
from protoclip.towers import Towers


class FeatureKey(NamedTuple):
    """One feature of a batch."""

    tower: str
    """``image`` or ``text``."""
    view: str
    """Name of the view that goes through the tower."""
    output: str
    """``pooled``, ``embedding``, ``features``, ``tokens``, ``token_mask``, or the name of a head."""


def teacher_view(name: str) -> str:
    """The entry of a batch that holds a teacher's features."""
    return f"teacher_{name}"


@dataclass(frozen=True)
class StepInputs:
    """All that a term may look at in one step."""

    features: Mapping[FeatureKey, Tensor]
    """What the terms require, float32 or float64."""
    logit_scales: Mapping[str, Tensor]
    """exp(log_scale) of the shared temperatures by name."""
    banks: Mapping[str, PrototypeBank]
    """Prototypes by name."""
    positions: Tensor
    """Place of each pair in its episode [batch]."""
    block: int
    """Block of episodes that share their pairs and prototypes."""
    gathers: bool = False
    """Whether every process is in this step with as many rows of one batch, so that terms may gather."""
    teachers: Mapping[str, Tensor] = field(default_factory=dict)
    """Features of external teachers by name [batch, dims], constants."""
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    """What the loader made beside a view's input, such as the labels of masked tokens, by name."""
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    """Heads that a term calls itself, by name."""
    logit_biases: Mapping[str, Tensor] = field(default_factory=dict)
    """Biases of the shared temperatures that have one, by name."""


def present(*features: Tensor) -> Tensor | None:
    """The rows whose views are all there [batch]; None where that is every row.

    Args:
        features: each [batch, ...], matched by row; a missing view is a row of zeros.
    """
    rows = torch.stack([value.flatten(1).any(dim=1) for value in features]).all(dim=0)
    return None if bool(rows.all()) else rows


class Term(nn.Module, ABC):
    """A supervision term.

    Args:
        weight: its factor in the total loss.
        validates: whether it takes part in the validation loss.
    """

    contrastive: ClassVar[bool] = False
    """Whether the rows of a batch meet each other, so that its size matters."""

    def __init__(self, weight: float = 1.0, validates: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.validates = validates

    @property
    @abstractmethod
    def required(self) -> tuple[FeatureKey, ...]:
        """The features it reads."""

    @property
    def temperatures(self) -> tuple[str, ...]:
        """Names of the temperatures it uses."""
        return ()

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of the temperatures whose bias it uses."""
        return ()

    @property
    def banks(self) -> tuple[str, ...]:
        """Names of the prototype banks it uses."""
        return ()

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the external teachers whose features it uses."""
        return ()

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the batch's entries that it reads beside features."""
        return ()

    @property
    def heads(self) -> Mapping[str, str]:
        """Heads that it calls itself, on a part of what they read, and each one's tower."""
        return {}

    def build(self, towers: Towers) -> None:
        """Make what has the towers' widths, such as a queue; called once, when the model is built."""

    def update(self, inputs: StepInputs) -> None:
        """Renew what it keeps between steps, such as a queue; called after the optimizer step, without gradient."""

    @abstractmethod
    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:
        """``loss``, and figures worth logging, all scalars."""
