"""Regions of pictures: the best boxes of a detector of torchvision, and what its box head says of them."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from protoclip.devices import chosen_device
from protoclip.ranges import PositiveInt, Share

logger = logging.getLogger(__name__)

_CLASSES = "roi_heads.box_predictor.cls_score.weight"


class Detector:
    """A frozen R-CNN in eval mode and float32, loaded when first needed.

    Args:
        name: Of torchvision, such as ``fasterrcnn_resnet50_fpn_v2`` or ``maskrcnn_resnet50_fpn_v2``.
        weights: Torchvision's name of them, a file with a state dict, or None: untrained, for trials.
        boxes: Most regions of a picture, by falling score.
        image_size: Side in pixels that pictures are resized to.
        min_score: A box that scores no more is no region.
        device: Where the model runs; ``auto`` is CUDA where there is one. Not part of ``describe``.

    Raises:
        ValueError: Torchvision has no such detector with a box head.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | None = "DEFAULT",
        boxes: PositiveInt = 10,
        image_size: PositiveInt = 640,
        min_score: Share = 0.05,
        device: str = "auto",
    ) -> None:
        self.name = name
        self.weights = weights
        self.boxes = boxes
        self.image_size = image_size
        self.min_score = min_score
        self.device = device

    def describe(self) -> dict[str, Any]:
        """Model, weights, number of boxes, size and least score."""
        settings = {"boxes": self.boxes, "image_size": self.image_size, "min_score": self.min_score}
        return {"library": "torchvision", "name": self.name, "weights": self.weights or "untrained", **settings}

    @property
    def dim(self) -> int:
        """Width of a region: the box head's representation and four coordinates; loads the model.

        Raises:
            ValueError: The model cannot be loaded.
        """
        return int(self.network.roi_heads.box_predictor.cls_score.in_features) + 4

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Regions of a batch of pictures.

        Args:
            pictures: n of [3, height, width], of any sizes.

        Returns:
            [n, boxes, dim]: the representation, then x1, y1, x2, y2 as shares of width and height; a row of zeros
            where there is no further box.

        Raises:
            ValueError: The model cannot be loaded.
        """
        network = self.network
        device = next(network.parameters()).device
        with torch.no_grad():
            images, _ = network.transform([torch.from_numpy(picture).to(device) / 255 for picture in pictures])
            maps = network.backbone(images.tensors)
            proposals, _ = network.rpn(images, maps)
            found, _ = network.roi_heads(maps, proposals, images.image_sizes)
            corners = [regions["boxes"] for regions in found]
            pooled = network.roi_heads.box_roi_pool(maps, corners, images.image_sizes)
            states = network.roi_heads.box_head(pooled).split([len(each) for each in corners])
        rows = [torch.cat([state, each / self.image_size], 1) for state, each in zip(states, corners, strict=True)]
        filled = torch.stack([F.pad(row, (0, 0, 0, self.boxes - len(row))) for row in rows])
        regions: NDArray[np.float32] = filled.float().cpu().numpy()
        return regions

    @cached_property
    def network(self) -> Any:
        """The model, with its boxes alone.

        Raises:
            ValueError: It cannot be loaded.
        """
        from torchvision import models  # noqa: PLC0415 - takes seconds

        place = chosen_device(self.device, "detector.model.device")
        known = [name for name in models.list_models(module=models.detection) if "rcnn" in name]
        if self.name not in known:
            raise ValueError(f"detector.model.name={self.name}: torchvision has {', '.join(known)}: choose one")
        network = self._build(models)
        for branch in ("mask_roi_pool", "keypoint_roi_pool"):  # without these, torchvision leaves the branches out
            setattr(network.roi_heads, branch, None)
        return network.to(place).eval()

    def _build(self, models: Any) -> Any:
        """The model with its weights."""
        size = (self.image_size, self.image_size)
        settings = {"fixed_size": size, "box_score_thresh": self.min_score, "box_detections_per_img": self.boxes}
        if self.weights is None:
            logger.warning("detector.model.weights=null: the detector is untrained, its regions are for trials alone")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the same detector after an interruption
                return models.get_model(self.name, weights=None, weights_backbone=None, **settings)
        named = models.get_model_weights(self.name).__members__
        file = Path(self.weights).expanduser()
        if self.weights not in named and not file.is_file():
            told = f"detector.model.weights={self.weights}: there is no such file, and torchvision has"
            raise ValueError(f"{told} {', '.join(named)}: give one of them")
        try:
            if self.weights in named:
                return models.get_model(self.name, weights=self.weights, **settings)
            state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("model", state)  # type: ignore[assignment]  # as torchvision's own training writes it
            classes = len(state[_CLASSES])
            network = models.get_model(self.name, weights=None, weights_backbone=None, num_classes=classes, **settings)
            network.load_state_dict(state)
        except (RuntimeError, OSError, KeyError, EOFError, TypeError, AttributeError, UnpicklingError) as error:
            reason = " ".join(str(error).split())[:300]
            told = f"detector.model.weights={self.weights}: {reason}"
            raise ValueError(f"{told}: give a file of a {self.name}'s state dict, or a name of torchvision") from error
        return network
