"""Frozen pretrained models that encode captions or pictures; a model is loaded at its first batch, never before."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor

Kind: TypeAlias = Literal["text", "image"]


class Encoder(ABC):
    """A frozen model.

    Attributes:
        kind: what it encodes.
    """

    kind: ClassVar[Kind]

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the features depend on, in plain values; does not load the model."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the features; loads the model."""

    @abstractmethod
    def __call__(self, items: Sequence[Any]) -> Tensor:
        """Features of captions or pictures, float32 [n, dim], unit rows, on the CPU."""
