"""What is not finite is told (protoclip/divergence.py)."""

import pickle
from typing import Any

import pytest
import torch

from protoclip.divergence import NonFiniteError, check_extracted, check_loss
from protoclip.terms import FeatureKey

IMAGE, TEXT = FeatureKey("image", "image", "features"), FeatureKey("text", "text", "prototype")
NAN, INF = float("nan"), float("inf")


def batch() -> dict[str, Any]:
    return {"index": torch.tensor([7, 5]), "position": torch.tensor([1, 0]), "episode": torch.tensor([3, 3])}


def test_a_finite_loss_passes() -> None:
    check_loss(torch.tensor(1.0), {"clip_loss": 1.0}, {IMAGE: torch.tensor([[NAN]])}, batch(), 12)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_loss_that_is_not(value: float) -> None:
    features = {IMAGE: torch.ones(2, 3), TEXT: torch.tensor([[1.0, INF]])}
    figures: dict[str, torch.Tensor | float] = {
        "clip_loss": torch.tensor(value),
        "prototype_loss": 2.5,
        "prototype_accuracy": 1.0,
    }
    with pytest.raises(NonFiniteError) as raised:
        check_loss(torch.tensor(value), figures, features, batch(), 12)
    assert str(raised.value) == (
        f"the loss is not finite at step 12 of episode 3 (clip {value}; prototype 2.5; not finite: "
        "text/text/prototype): lower optimizer.optimizer.lr, lengthen optimizer.schedule.warmup, or set "
        "trainer.precision=32-true"
    )
    facts = raised.value.facts()
    assert facts.pop("terms")["prototype"] == 2.5
    assert facts == {
        "step": 12, "episode": 3, "features": ["text/text/prototype"], "indices": [7, 5], "positions": [1, 0],
    }  # fmt: skip
    assert {type(value) for value in (*facts["indices"], *facts["positions"], facts["step"])} == {int}


def test_extracted_features() -> None:
    image, text = torch.ones(4, 2), torch.ones(4, 2)
    indices, positions = torch.tensor([10, 11, 12, 13]), torch.tensor([0, 2, 4, 6])
    check_extracted({IMAGE: image, TEXT: text}, step=8, episode=2, indices=indices, positions=positions)
    text[1, 0], text[3, 1] = NAN, INF
    with pytest.raises(NonFiniteError, match="extracted features are not finite at step 8 of episode 2") as raised:
        check_extracted({IMAGE: image, TEXT: text}, step=8, episode=2, indices=indices, positions=positions)
    assert raised.value.features == ["text/text/prototype"]
    assert (raised.value.indices, raised.value.positions) == ([11, 13], [2, 6])
    assert {type(index) for index in raised.value.indices} == {int}
    assert pickle.loads(pickle.dumps(raised.value)).facts() == raised.value.facts()  # it goes to the other processes
