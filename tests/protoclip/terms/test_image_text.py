import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import clip_loss, sigmoid_loss
from protoclip.terms import FeatureKey, ImageText, StepInputs

VIEWS = {"image": ("image", "crop"), "text": ("text", "summary")}


def inputs() -> StepInputs:
    generator = torch.Generator().manual_seed(0)
    features: dict[FeatureKey, Tensor] = {
        FeatureKey(tower, view, "features"): F.normalize(torch.randn(6, 5, generator=generator), dim=1)
        for tower, views in VIEWS.items()
        for view in views
    }
    scales = {"clip": torch.tensor(9.0), "dense": torch.tensor(2.0)}
    return StepInputs(features, scales, {}, positions=torch.arange(6), block=0)


def pair_loss(image: str, text: str, scale: float = 9.0, **options: float | str) -> Tensor:
    features = inputs().features
    left, right = features[FeatureKey("image", image, "features")], features[FeatureKey("text", text, "features")]
    return clip_loss(left, right, torch.tensor(scale), **options)  # type: ignore[arg-type]


def test_hand_value() -> None:
    rows = {FeatureKey(tower, tower, "features"): torch.eye(2) for tower in ("image", "text")}
    given = StepInputs(rows, {"clip": torch.tensor(3.0)}, {}, positions=torch.arange(2), block=0)
    loss = ImageText([["image", "text"]])(given)["loss"]
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-6)


def test_one_pair_is_clip() -> None:
    results = ImageText([["image", "text"]])(inputs())
    assert set(results) == {"loss"}
    torch.testing.assert_close(results["loss"], pair_loss("image", "text"))


def test_several_pairs_are_averaged() -> None:
    pairs = [["image", "summary"], ["crop", "text"], ["crop", "summary"]]
    expected = sum(pair_loss(image, text).item() for image, text in pairs) / 3
    assert ImageText(pairs)(inputs())["loss"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", ["negatives", "literal", "uniform"])
def test_options_reach_the_loss(smoothing: Literal["negatives", "literal", "uniform"]) -> None:
    term = ImageText([["image", "text"]], temperature="dense", label_smoothing=0.3, smoothing=smoothing)
    expected = pair_loss("image", "text", 2.0, label_smoothing=0.3, smoothing=smoothing)
    torch.testing.assert_close(term(inputs())["loss"], expected)


def test_says_what_it_reads() -> None:
    term = ImageText([["image", "text"], ["crop", "text"]], temperature="dense", weight=0.5)
    towers = [(key.tower, key.view, key.output) for key in term.required]
    assert set(towers) == {("image", "image", "features"), ("image", "crop", "features"), ("text", "text", "features")}
    assert term.temperatures == ("dense",)
    assert term.banks == ()
    assert term.validates
    assert term.weight == 0.5


def test_refuses_no_pairs() -> None:
    with pytest.raises(ValueError, match="needs pairs"):
        ImageText([])


def test_the_sigmoid_loss_takes_its_temperatures_bias() -> None:
    given = replace(inputs(), logit_biases={"dense": torch.tensor(-3.0)})
    left, right = (given.features[FeatureKey(tower, tower, "features")] for tower in ("image", "text"))
    loss = ImageText([["image", "text"]], temperature="dense", loss="sigmoid")(given)["loss"]
    torch.testing.assert_close(loss, sigmoid_loss(left, right, torch.tensor(2.0), torch.tensor(-3.0)))
    with pytest.raises(ValueError, match=r"set temperatures\.clip\.bias, which is -10 in SigLIP"):
        ImageText([["image", "text"]], loss="sigmoid")(given)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_pairs_that_miss_a_view_stay_out_of_that_pair_of_views(loss: Literal["softmax", "sigmoid"]) -> None:
    given = replace(inputs(), logit_biases={"clip": torch.tensor(-3.0)})
    features = {key: value.clone() for key, value in given.features.items()}
    crop, text = FeatureKey("image", "crop", "features"), FeatureKey("text", "text", "features")
    features[crop][[1, 4]] = 0.0
    kept = {key: value[[0, 2, 3, 5]] for key, value in features.items()}
    image_text = ImageText([["image", "text"]], loss=loss)
    both = ImageText([["image", "text"], ["crop", "text"]], loss=loss)(replace(given, features=features))["loss"]
    alone = ImageText([["crop", "text"]], loss=loss)(replace(given, features=kept))["loss"]
    torch.testing.assert_close(both, (image_text(given)["loss"] + alone) / 2)
    features[text][:] = 0.0
    assert ImageText([["crop", "text"]], loss=loss)(replace(given, features=features))["loss"].item() == 0.0


def test_refuses_other_losses_and_smoothing_of_the_sigmoid() -> None:
    unknown: Any = "hinge"
    with pytest.raises(ValueError, match=r"image_text\.loss is softmax or sigmoid, not 'hinge'"):
        ImageText([["image", "text"]], loss=unknown)
    with pytest.raises(ValueError, match=r"set image_text\.label_smoothing=0"):
        ImageText([["image", "text"]], loss="sigmoid", label_smoothing=0.1)
