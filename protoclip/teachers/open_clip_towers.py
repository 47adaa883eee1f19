"""The towers of a pretrained open_clip model as teachers."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from protoclip.teachers.encoders import Encoder, ImageEncoder
from protoclip.tokenizer import create_tokenizer
from protoclip.towers import create_towers
from protoclip.towers.configs import WITH_WEIGHTS


class _OpenClip(Encoder):
    """One tower of an open_clip model.

    Args:
        name: As for ``protoclip.towers.create_towers``.
        pretrained: A tag of open_clip, or a file; None for a name that brings its weights.
        device: As for every encoder.

    Raises:
        ValueError: No weights are given.
    """

    def __init__(self, name: str, pretrained: str | None = None, *, device: str = "auto") -> None:
        super().__init__(device)
        if pretrained is None and not name.startswith(WITH_WEIGHTS):
            raise ValueError(
                f"{name} without weights is no teacher: set its pretrained to a tag of open_clip or a file"
            )
        self.name = name
        self.pretrained = pretrained

    def describe(self) -> dict[str, Any]:
        """Model and weights."""
        return {"library": "open_clip", "tower": self.kind, "model": self.name, "pretrained": self.pretrained}


class OpenClipText(_OpenClip):
    """The text tower."""

    kind = "text"

    def _load(self) -> tuple[Any, nn.Module]:
        return create_tokenizer(self.name), create_towers(self.name, pretrained=self.pretrained).text

    def _encode(self, items: Sequence[Any]) -> Tensor:
        features: Tensor = self._network(self._preprocess(items).to(self._place))["features"]
        return features


class OpenClipImage(ImageEncoder, _OpenClip):
    """The image tower, with the preprocessing it was made for."""

    def _load(self) -> tuple[Any, nn.Module]:
        from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: PLC0415 - takes seconds

        tower = create_towers(self.name, pretrained=self.pretrained).image
        return image_transform_v2(PreprocessCfg(**tower.visual.preprocess_cfg), is_train=False), tower

    def _encode(self, items: Sequence[Any]) -> Tensor:
        features: Tensor = self._network(self._batch(items))["features"]
        return features
