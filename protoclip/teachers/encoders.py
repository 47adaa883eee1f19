"""What a teacher is to the rest: a frozen model that encodes captions or pictures, loaded at its first batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind: TypeAlias = Literal["text", "image"]


class Encoder(ABC):
    """A frozen model in eval mode and float32; cheap to make and to pickle.

    Args:
        device: Where the model runs; ``auto`` is CUDA where there is one, else the CPU. Not part of ``describe``.

    Attributes:
        kind: What it encodes.
    """

    kind: ClassVar[Kind]

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self._prepare: Any = None
        self._network: Any = None

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the features depend on, in plain values, as the user gave it; does not load the model."""

    @abstractmethod
    def _load(self) -> tuple[Any, nn.Module]:
        """What prepares items for the network (a tokenizer, a transform), and the network, on the CPU in float32."""

    @abstractmethod
    def _encode(self, items: Sequence[Any]) -> Tensor:
        """Features [n, dim] of any scale by ``_prepare`` and ``_network``, which lies on ``_place``."""

    @cached_property
    def dim(self) -> int:
        """Width of the features; loads the model and encodes an example.

        Raises:
            ValueError: The model cannot be loaded.
        """
        example = "a" if self.kind == "text" else torch.zeros(3, 32, 32, dtype=torch.uint8)
        return self([example]).shape[1]

    def __call__(self, items: Sequence[Any]) -> Tensor:
        """Encode a batch.

        Args:
            items: n captions, or n pictures: RGB PIL images or uint8 tensors [3, height, width].

        Returns:
            float32 [n, dim] on the CPU, unit rows without gradient.

        Raises:
            ValueError: The model cannot be loaded.
        """
        with torch.no_grad():
            if self._network is None:
                place = _device(self.device)
                self._prepare, network = self._load()
                self._network = network.to(place).eval()
            return F.normalize(self._encode(items).float(), dim=-1).cpu()

    def __getstate__(self) -> dict[str, Any]:
        """Settings without the model."""
        return {**self.__dict__, "_prepare": None, "_network": None}

    @property
    def _place(self) -> torch.device:
        place: torch.device = next(self._network.parameters()).device
        return place


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch has no device {name!r} here: set teacher.device=auto") from error


def stack_pictures(pictures: Sequence[Any], transform: Callable[[Any], Tensor]) -> Tensor:
    """A batch of what a library's transform makes of pictures, which takes PIL images alone.

    Args:
        pictures: RGB PIL images or uint8 tensors [3, height, width].
        transform: from a PIL image to a tensor.
    """
    from torchvision.transforms.functional import to_pil_image  # noqa: PLC0415 - takes seconds

    return torch.stack([transform(to_pil_image(item) if isinstance(item, Tensor) else item) for item in pictures])
