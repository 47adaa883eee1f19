"""Image teachers of timm, such as DINO."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor, nn

from protoclip.teachers.encoders import ImageEncoder


class TimmImage(ImageEncoder):
    """The pooled features of a timm model, with the preprocessing it was made for.

    Args:
        name: Of timm, with or without the tag of its weights.
        pretrained: True for timm's own weights, or a checkpoint file.
        device: As for every encoder.

    Raises:
        ValueError: No weights are given.
    """

    def __init__(self, name: str, *, pretrained: bool | str = True, device: str = "auto") -> None:
        super().__init__(device)
        if not pretrained:
            raise ValueError(f"{name} without weights is no teacher: set its pretrained to true or a checkpoint file")
        self.name = name
        self.pretrained = pretrained

    def describe(self) -> dict[str, Any]:
        """Model and weights."""
        return {"library": "timm", "model": self.name, "pretrained": self.pretrained}

    def _load(self) -> tuple[Any, nn.Module]:
        from timm import create_model  # noqa: PLC0415 - takes seconds
        from timm.data.config import resolve_model_data_config  # noqa: PLC0415
        from timm.data.transforms_factory import create_transform  # noqa: PLC0415

        if isinstance(self.pretrained, str) and not Path(self.pretrained).expanduser().is_file():
            raise ValueError(f"pretrained={self.pretrained}: there is no such file: give a checkpoint of {self.name}")
        # by way of the overlay timm drops the checkpoint's classifier, which the model is made without
        file = {"file": self.pretrained} if isinstance(self.pretrained, str) else None
        try:
            model = create_model(self.name, pretrained=True, pretrained_cfg_overlay=file, num_classes=0)
        except (RuntimeError, OSError, KeyError, EOFError, TypeError, UnpicklingError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{self.name} with pretrained={self.pretrained}: {reason}: give another pair") from error
        return create_transform(**resolve_model_data_config(model)), model  # type: ignore[no-untyped-call]

    def _encode(self, items: Sequence[Any]) -> Tensor:
        features: Tensor = self._network(self._batch(items))
        return features
