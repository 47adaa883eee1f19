from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import nearest_neighbour_loss
from protoclip.terms import FeatureKey, StepInputs
from protoclip.terms.nearest_neighbour import NearestNeighbour
from tests.gloo import Pool

DIM = 5
PAIRS = [["image", "text"], ["crop", "text"], ["image", "eda"], ["crop", "eda"]]


def rows(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def term(pairs: list[list[str]] | None = None, **options: Any) -> NearestNeighbour:
    made = NearestNeighbour(pairs or [["image", "text"]], **options)
    towers: Any = SimpleNamespace(text=SimpleNamespace(embed_dim=DIM))
    made.build(towers)
    return made


def inputs(seed: int = 0, count: int = 4) -> StepInputs:
    views = [("image", "image"), ("image", "crop"), ("text", "text"), ("text", "eda")]
    features = {
        FeatureKey(*view, "features"): rows(count, 10 * seed + place).requires_grad_()
        for place, view in enumerate(views)
    }
    scales = {"clip": torch.tensor(9.0, requires_grad=True)}
    return StepInputs(features, scales, {}, positions=torch.arange(count), block=0)


def of(given: StepInputs, name: str) -> Tensor:
    return next(value for key, value in given.features.items() if key.view == name)


def test_an_empty_queue_is_zero_with_a_graph() -> None:
    given = inputs()
    loss = term(PAIRS, size=6)(given)["loss"]
    loss.backward()
    assert loss.item() == 0.0
    for leaf in (*given.features.values(), given.logit_scales["clip"]):
        assert leaf.grad is not None
        assert not bool(leaf.grad.any())


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_that_of_the_nearest_past_texts(symmetric: bool) -> None:
    made, past, given = term(PAIRS, size=50, symmetric=symmetric), inputs(1), inputs(2)
    made.update(past)
    kept = torch.cat([of(past, "text"), of(past, "eda")]).detach()
    assert torch.equal(made.queue[:8], kept)
    expected = []
    for image, text in PAIRS:
        nearest = [kept[max(range(8), key=(kept @ query).tolist().__getitem__)] for query in of(given, text).detach()]
        scale = torch.tensor(9.0)
        expected.append(nearest_neighbour_loss(of(given, image), torch.stack(nearest), scale, symmetric=symmetric))
    loss = made(given)["loss"]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert [value.grad is not None for value in given.features.values()] == [True, True, False, False]


def test_a_step_does_not_find_its_own_texts() -> None:
    made, past, given = term(size=50), inputs(1), inputs(2)
    made.update(past)
    before = made(given)["loss"]
    assert torch.equal(made(given)["loss"], before)
    made.update(given)
    assert made(given)["loss"].item() != before.item()


def test_the_ring_keeps_the_last_texts() -> None:
    """Batches of 4 in a ring of 6: what is kept is always the last six, the oldest overwritten first."""
    made, entered = term(size=6), torch.zeros(0, DIM)
    for seed in range(1, 8):
        made.update(inputs(seed))
        entered = torch.cat([entered, of(inputs(seed), "text").detach()])
        assert int(made.seen) == len(entered)
        for place in range(max(0, len(entered) - 6), len(entered)):
            assert torch.equal(made.queue[place % 6], entered[place])


def test_more_rows_than_the_ring_has_leave_the_last() -> None:
    made = term(size=3)
    made.update(inputs(1, count=2))
    made.update(inputs(2, count=8))
    last = of(inputs(2, count=8), "text").detach()[-3:]
    assert int(made.seen) == 10
    assert torch.equal(made.queue[[7 % 3, 8 % 3, 9 % 3]], last)


def test_rows_that_have_not_been_filled_are_never_found() -> None:
    """A zero row has the cosine 0, more than the one text that is there."""
    made, past, given = term(size=50), inputs(1), inputs(2)
    features = {key: -of(given, "text").detach().mean(dim=0, keepdim=True) for key in past.features}
    made.update(StepInputs(features, past.logit_scales, {}, torch.arange(1), 0))
    found = made.queue[:1].expand(4, DIM)
    torch.testing.assert_close(
        made(given)["loss"], nearest_neighbour_loss(of(given, "image"), found, torch.tensor(9.0))
    )


def test_missing_views_stay_out_of_loss_and_queue() -> None:
    made, past, given = term(size=50), inputs(1), inputs(2)
    with torch.no_grad():
        of(past, "text")[1] = 0.0
        of(given, "image")[2] = 0.0
    made.update(past)
    assert int(made.seen) == 3
    assert bool(made.queue[:3].any(dim=1).all())
    fewer = StepInputs(
        {key: value[[0, 1, 3]] for key, value in given.features.items()}, given.logit_scales, {}, torch.arange(3), 0
    )
    torch.testing.assert_close(made(given)["loss"], made(fewer)["loss"])


def test_the_queue_survives_a_checkpoint() -> None:
    made = term(size=6)
    for seed in (1, 2, 3):
        made.update(inputs(seed))
    resumed = term(size=6)
    resumed.load_state_dict(made.state_dict())
    assert set(made.state_dict()) == {"queue", "seen"}
    for each in (made, resumed):
        each.update(inputs(4))
    assert torch.equal(resumed.queue, made.queue)
    assert torch.equal(resumed(inputs(5))["loss"], made(inputs(5))["loss"])


def two_processes() -> tuple[float, dict[str, Tensor]]:
    """Each with one half of the batches of one process."""
    half = slice(2 * torch.distributed.get_rank(), 2 * torch.distributed.get_rank() + 2)

    def local(seed: int) -> StepInputs:
        given = inputs(seed)
        features = {key: value[half] for key, value in given.features.items()}
        return StepInputs(features, given.logit_scales, {}, torch.arange(2), 0, gathers=True)

    made = term(PAIRS, size=10)
    made.update(local(1))
    made.update(local(2))
    return made(local(3))["loss"].item(), made.state_dict()


def test_processes_share_one_queue(pool: Pool) -> None:
    made = term(PAIRS, size=10)
    made.update(inputs(1))
    made.update(inputs(2))
    results = pool(two_processes)
    for _, state in results:
        assert {name: value.tolist() for name, value in state.items()} == {
            name: value.tolist() for name, value in made.state_dict().items()
        }
    assert sum(loss for loss, _ in results) / 2 == pytest.approx(made(inputs(3))["loss"].item(), rel=1e-5)


def test_says_what_it_reads() -> None:
    made = NearestNeighbour(PAIRS, temperature="warm", weight=0.2)
    assert {key.view for key in made.required} == {"image", "crop", "text", "eda"}
    assert (made.temperatures, made.weight, made.validates, made.size) == (("warm",), 0.2, False, 65536)


def test_refuses_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"such as \[\[image, text\]\]"):
        NearestNeighbour([])
