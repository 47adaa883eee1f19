"""Regions by a small R-CNN of torchvision whose weights are noise."""

import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from protoclip.detector import Detector

SMALL: dict[str, Any] = {"image_size": 64, "min_score": 0.0, "boxes": 6, "device": "cpu"}
MOBILENET = "fasterrcnn_mobilenet_v3_large_fpn"


def picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


PICTURES = [picture(0, 48, 48), picture(1, 30, 90)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(MOBILENET, weights=None, **SMALL)


@pytest.fixture(scope="module")
def regions(detector: Detector) -> NDArray[np.float32]:
    return detector(PICTURES)


def test_boxes_are_those_of_torchvision_by_falling_score(detector: Detector, regions: NDArray[np.float32]) -> None:
    assert regions.shape == (2, 6, detector.dim) == (2, 6, 1028)
    assert regions.dtype == np.float32
    with torch.no_grad():
        found = detector.network([torch.from_numpy(each) / 255 for each in PICTURES])
    for row, each, pixels in zip(regions, found, PICTURES, strict=True):
        assert (each["scores"].diff() <= 0).all()
        sides = np.array([pixels.shape[2], pixels.shape[1]] * 2)
        np.testing.assert_allclose(row[:, -4:], each["boxes"].numpy() / sides, atol=1e-5)
    assert regions[..., -4:].min() >= 0
    assert regions[..., -4:].max() <= 1


def test_features_are_what_the_box_head_says_of_those_boxes(detector: Detector, regions: NDArray[np.float32]) -> None:
    network = detector.network
    with torch.no_grad():
        images, _ = network.transform([torch.from_numpy(PICTURES[1]) / 255])
        boxes = torch.from_numpy(regions[1, :, -4:]) * 64
        pooled = network.roi_heads.box_roi_pool(network.backbone(images.tensors), [boxes], images.image_sizes)
        expected = network.roi_heads.box_head(pooled)
    torch.testing.assert_close(torch.from_numpy(regions[1, :, :-4]), expected, atol=1e-4, rtol=1e-3)


def test_an_absent_box_is_a_row_of_zeros(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = detector.network.roi_heads
    monkeypatch.setattr(heads, "detections_per_img", 2)
    assert detector(PICTURES).any(2).sum(1).tolist() == [2, 2]
    monkeypatch.setattr(heads, "score_thresh", 1.0)
    none = detector(PICTURES)
    assert none.shape == (2, 6, 1028)
    assert not none.any()


def test_an_untrained_detector_warns_and_is_the_same_every_time(
    regions: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.random.get_rng_state()
    again = Detector(MOBILENET, weights=None, **SMALL)
    np.testing.assert_array_equal(again(PICTURES), regions)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "detector.model.weights=null: the detector is untrained"
    ]
    assert again.describe()["weights"] == "untrained"
    assert json.dumps(again.describe())


def test_weights_come_from_a_file_with_any_number_of_classes(tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(1)
    network = get_model(MOBILENET, weights=None, weights_backbone=None, num_classes=3)
    for kept in (network.state_dict(), {"model": network.state_dict(), "epoch": 1}):
        torch.save(kept, tmp_path / "weights.pt")
        loaded = Detector(MOBILENET, weights=str(tmp_path / "weights.pt"), **SMALL).network.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())


def test_weights_of_torchvision_are_fetched_by_name(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import _api

    state = {name: value + 1 for name, value in detector.network.state_dict().items()}
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: state)
    loaded = Detector(MOBILENET, weights="COCO_V1", **SMALL).network.state_dict()
    named = [name for name in loaded if name.startswith("roi_heads")]
    assert all(torch.equal(loaded[name], state[name]) for name in named)

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(_api, "load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match=r"^detector\.model\.weights=COCO_V1: <urlopen error no route>: give a fi"):
        _ = Detector(MOBILENET, weights="COCO_V1", **SMALL).network


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        (
            "retinanet_resnet50_fpn",
            "DEFAULT",
            r"detector\.model\.name=retinanet_resnet50_fpn: torchvision has fasterrcnn",
        ),
        (
            MOBILENET,
            "COCO",
            r"detector\.model\.weights=COCO: there is no such file, and torchvision has COCO_V1",
        ),
        (MOBILENET, __file__, r"detector\.model\.weights=\S+: [^\n]+: give a file of a fasterrcnn\S+'s state dict, or"),
    ],
)
def test_mistakes_are_told_in_one_line(name: str, weights: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        _ = Detector(name, weights=weights).dim


def test_a_mask_branch_is_left_out() -> None:
    from torchvision.models import detection

    small = Detector("maskrcnn_resnet50_fpn_v2", weights=None, **SMALL)
    assert not small.network.roi_heads.has_mask()
    assert isinstance(small.network, detection.MaskRCNN)
    assert small([PICTURES[0]]).any(2).all()
