"""What a teacher is to the rest: a frozen model that encodes captions or pictures, loaded at its first batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from protoclip.devices import chosen_device

Kind: TypeAlias = Literal["text", "image"]


class Encoder(ABC):
    """A frozen model in eval mode and float32; cheap to make and to pickle, which leaves the network behind.

    Args:
        device: Where the model runs; ``auto`` is CUDA where there is one, else the CPU. Not part of ``describe``.

    Attributes:
        kind: What it encodes.
    """

    kind: ClassVar[Kind]

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self._preprocess: Any = None
        self._network: Any = None

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the features depend on, in plain values, as the user gave it; does not load the model."""

    @abstractmethod
    def _load(self) -> tuple[Any, nn.Module]:
        """What prepares items for the network (a tokenizer, a transform), and the network, on the CPU in float32."""

    @abstractmethod
    def _encode(self, items: Sequence[Any]) -> Tensor:
        """Features [n, dim] of any scale, of prepared items, by ``_preprocess`` and the ``_network`` on ``_place``."""

    @cached_property
    def dim(self) -> int:
        """Width of the features; loads the model and encodes an example.

        Raises:
            ValueError: The model cannot be loaded.
        """
        example = "a" if self.kind == "text" else torch.zeros(3, 32, 32, dtype=torch.uint8)
        return self([self.prepare(example)]).shape[1]

    def prepare(self, item: Any) -> Any:
        """The part of the work that a loader's worker does for each item; captions stay as they are.

        Args:
            item: A caption, or a picture: an RGB PIL image or a uint8 tensor [3, height, width].

        Raises:
            ValueError: The model cannot be loaded.
        """
        return item

    def __call__(self, items: Sequence[Any]) -> Tensor:
        """Encode a batch.

        Args:
            items: n captions or pictures, each as ``prepare`` returns it.

        Returns:
            float32 [n, dim] on the CPU, unit rows without gradient.

        Raises:
            ValueError: The model cannot be loaded.
        """
        with torch.no_grad():
            if self._network is None:
                self._ready()
            return F.normalize(self._encode(items).float(), dim=-1).cpu()

    def __getstate__(self) -> dict[str, Any]:
        """Settings without the model."""
        return {**self.__dict__, "_preprocess": None, "_network": None}

    def _ready(self) -> None:
        """Load the model."""
        place = chosen_device(self.device, "teacher.device")
        self._preprocess, network = self._load()
        self._network = network.to(place).eval()

    @property
    def _place(self) -> torch.device:
        place: torch.device = next(self._network.parameters()).device
        return place


class ImageEncoder(Encoder):
    """A frozen model of pictures; a copy keeps the transform, so that workers need no network."""

    kind = "image"

    def prepare(self, item: Any) -> NDArray[np.float32]:
        """What the transform, which takes PIL images alone, makes of a picture: [3, height, width].

        An array, since each tensor would hold a file open on its way from a worker, and a batch hundreds of them.
        """
        from torchvision.transforms.functional import to_pil_image  # noqa: PLC0415 - takes seconds

        if self._preprocess is None:
            self._ready()
        prepared: Tensor = self._preprocess(to_pil_image(item) if isinstance(item, Tensor) else item)
        return prepared.numpy()

    def __getstate__(self) -> dict[str, Any]:
        """Settings and the transform."""
        return {**super().__getstate__(), "_preprocess": self._preprocess}

    def _batch(self, items: Sequence[NDArray[np.float32]]) -> Tensor:
        """Prepared pictures [n, 3, height, width] where the network lies."""
        return torch.from_numpy(np.stack(items)).to(self._place)
