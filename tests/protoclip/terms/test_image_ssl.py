import pytest
import torch
from torch import Tensor

from protoclip.losses import ntxent_loss, simsiam_loss
from protoclip.terms import FeatureKey, SimCLR, SimSiam, StepInputs

VIEWS = ["image_1", "image_2"]


def inputs(head: str, dim: int = 4) -> StepInputs:
    generator = torch.Generator().manual_seed(0)
    features: dict[FeatureKey, Tensor] = {
        FeatureKey("image", view, head): torch.randn(6, dim, generator=generator).requires_grad_() for view in VIEWS
    }
    return StepInputs(features, {}, {}, positions=torch.arange(6), block=0)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_is_ntxent_of_the_projected_views(temperature: float) -> None:
    given = inputs("simclr")
    first, second = given.features.values()
    assert torch.equal(SimCLR(VIEWS, temperature=temperature)(given)["loss"], ntxent_loss(first, second, temperature))
    assert torch.equal(SimCLR(VIEWS)(given)["loss"], ntxent_loss(first, second, 0.1))


def test_simsiam_predicts_each_view_from_the_other() -> None:
    given, term = inputs("simsiam"), SimSiam(VIEWS, dim=4, hidden_dim=3, norm="layer")
    first, second = given.features.values()
    loss = term(given)["loss"]
    torch.testing.assert_close(loss, simsiam_loss(term.predictor(first), term.predictor(second), first, second))
    loss.backward()
    trained = [*term.parameters(), first, second]
    assert len(trained) == 8
    for leaf in trained:
        assert leaf.grad is not None
        assert bool(leaf.grad.any())


def test_simsiam_learns_to_predict() -> None:
    given, term = inputs("simsiam"), SimSiam(VIEWS, dim=4, hidden_dim=16, norm="layer")
    optimizer = torch.optim.SGD(term.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        losses.append(term(given)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < losses[0].item() - 0.2


def test_says_what_it_reads() -> None:
    for term in (SimCLR(VIEWS, head="mine", weight=0.5), SimSiam(VIEWS, head="mine", dim=4, weight=0.5)):
        assert [tuple(key) for key in term.required] == [("image", view, "mine") for view in VIEWS]
        assert (term.temperatures, term.validates, term.weight) == ((), False, 0.5)


def test_refuses_other_than_two_views() -> None:
    for views in (["image_1"], ["image_1", "image_1"], ["image_1", "image_2", "image_1"]):
        for kind in (SimCLR, SimSiam):
            with pytest.raises(ValueError, match=f"not {', '.join(views)}: name two image views"):
                kind(views)


def test_refuses_a_projector_of_another_width() -> None:
    with pytest.raises(ValueError, match="is 6 wide, its projector 4: set dim=4"):
        SimSiam(VIEWS, dim=6)(inputs("simsiam"))
