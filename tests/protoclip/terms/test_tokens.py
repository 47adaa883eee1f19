from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from protoclip.losses import filip_loss
from protoclip.terms import FILIP, FeatureKey, StepInputs
from tests.gloo import Pool

MASK = torch.arange(6) < torch.tensor([6, 2, 4, 1])[:, None]


def inputs(half: slice = slice(None)) -> StepInputs:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(4, 3, 5, generator=generator, dtype=torch.float64), dim=2)[half].requires_grad_()
    text = F.normalize(torch.randn(4, 6, 5, generator=generator, dtype=torch.float64), dim=2)[half].requires_grad_()
    features = {
        FeatureKey("image", "image", "filip"): image,
        FeatureKey("text", "text", "filip"): text,
        FeatureKey("text", "text", "token_mask"): MASK[half],
    }
    scales = {"filip": torch.tensor(9.0).double()}
    return StepInputs(features, scales, {}, positions=torch.arange(4)[half], block=0)


@pytest.mark.parametrize(("block", "keep"), [(None, None), (3, None), (2, 0.5)])
def test_the_loss_is_that_of_the_tokens_and_their_mask(block: int | None, keep: float | None) -> None:
    given = inputs()
    image, text, mask = (given.features[key] for key in FILIP().required)
    expected = filip_loss(image, text, torch.tensor(9.0).double(), mask, block=block, keep_tokens=keep)
    torch.testing.assert_close(FILIP(block=block, keep_tokens=keep)(given)["loss"], expected)


def two_halves() -> tuple[float, torch.Tensor]:
    rank = torch.distributed.get_rank()
    given = replace(inputs(slice(2 * rank, 2 * rank + 2)), gathers=True)
    loss = FILIP(block=1)(given)["loss"]
    loss.backward()
    gradient = given.features[FeatureKey("text", "text", "filip")].grad
    assert gradient is not None
    return loss.item(), gradient


def test_processes_are_one_batch(pool: Pool) -> None:
    given = inputs()
    loss = FILIP()(given)["loss"]
    loss.backward()
    (first, first_gradient), (second, second_gradient) = pool(two_halves)
    assert (first + second) / 2 == pytest.approx(loss.item(), rel=1e-12)
    whole = given.features[FeatureKey("text", "text", "filip")].grad
    torch.testing.assert_close(torch.cat([first_gradient, second_gradient]) / 2, whole)


def test_names_are_bindings() -> None:
    term = FILIP(image="crop", text="masked", head="fine", temperature="dense", weight=0.2)
    keys = [("image", "crop", "fine"), ("text", "masked", "fine"), ("text", "masked", "token_mask")]
    assert [tuple(key) for key in term.required] == keys
    assert (term.temperatures, term.weight, term.validates) == (("dense",), 0.2, True)
