from dataclasses import replace

import pytest
import torch

from protoclip.heads import MaskedLMHead
from protoclip.losses import masked_lm_loss
from protoclip.terms import FeatureKey, MaskedLM, StepInputs
from tests.gloo import Pool

LABELS = torch.tensor([[-100, 3, -100], [2, 0, -100], [-100, -100, -100], [-100, -100, 1]])


def inputs(labels: torch.Tensor = LABELS, head: MaskedLMHead | None = None) -> StepInputs:
    torch.manual_seed(0)
    tokens = torch.randn(4, 3, 5, dtype=torch.float64).requires_grad_()
    head = head or MaskedLMHead(5, vocab_size=7).double()
    return StepInputs(
        {FeatureKey("text", "masked", "tokens"): tokens},
        {},
        {},
        positions=torch.arange(4),
        block=0,
        targets={"masked_labels": labels},
        heads={"mlm": head},
    )


def test_the_loss_is_over_masked_words_alone() -> None:
    given = inputs()
    tokens = given.features[FeatureKey("text", "masked", "tokens")]
    loss = MaskedLM("masked")(given)["loss"]
    torch.testing.assert_close(loss, masked_lm_loss(given.heads["mlm"](tokens), LABELS))
    loss.backward()
    assert tokens.grad is not None
    assert torch.equal(tokens.grad.any(dim=2), LABELS != -100)


def test_the_head_sees_no_other_token() -> None:
    seen: list[int] = []

    class Watched(MaskedLMHead):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            seen.append(len(tokens))
            return super().forward(tokens)

    MaskedLM("masked")(inputs(head=Watched(5, vocab_size=7).double()))
    assert seen == [4]


def test_nothing_masked_trains_nothing_but_has_gradients() -> None:
    given = inputs(torch.full_like(LABELS, -100))
    loss = MaskedLM("masked")(given)["loss"]
    loss.backward()
    assert loss.item() == 0.0
    for leaf in (*given.features.values(), *given.heads["mlm"].parameters()):
        assert leaf.grad is not None
        assert not bool(leaf.grad.any())


def two_halves(rank: int) -> tuple[float, torch.Tensor]:
    """The local loss of a half of the batch, and its gradient in the tokens: three words on one, one on the other."""
    given = inputs()
    key, half = FeatureKey("text", "masked", "tokens"), slice(2 * rank, 2 * rank + 2)
    tokens = given.features[key].detach()[half].requires_grad_()
    local = replace(given, features={key: tokens}, targets={"masked_labels": LABELS[half]}, gathers=True)
    loss = MaskedLM("masked")(local)["loss"]
    loss.backward()
    assert tokens.grad is not None
    return loss.item(), tokens.grad


def two_halves_here() -> tuple[float, torch.Tensor]:
    return two_halves(torch.distributed.get_rank())


def test_unequal_numbers_of_words_average_to_one_process(pool: Pool) -> None:
    given = inputs()
    loss = MaskedLM("masked")(given)["loss"]
    loss.backward()
    (first, first_gradient), (second, second_gradient) = pool(two_halves_here)
    assert (first + second) / 2 == pytest.approx(loss.item(), rel=1e-12)
    whole = given.features[FeatureKey("text", "masked", "tokens")].grad
    torch.testing.assert_close(torch.cat([first_gradient, second_gradient]) / 2, whole)


def test_says_what_it_reads() -> None:
    term = MaskedLM("words", head="vocabulary", weight=0.2)
    assert [tuple(key) for key in term.required] == [("text", "words", "tokens")]
    assert (term.targets, term.heads) == (("words_labels",), {"vocabulary": "text"})
    assert (term.weight, term.validates) == (0.2, False)


def test_refuses_words_that_the_head_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"id 3, the head mlm 2 words: raise heads\.mlm\.vocab_size"):
        MaskedLM("masked")(inputs(head=MaskedLMHead(5, vocab_size=2).double()))
