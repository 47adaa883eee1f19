"""Late interaction by hand value and slow oracle; blocks change memory and nothing else."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from protoclip.losses import filip_loss, token_similarity
from tests.protoclip.losses.common import go_down, scale

TEXT_MASK = torch.arange(6) < torch.tensor([6, 2, 4, 1, 5, 3, 6, 2])[:, None]
IMAGE_MASK = torch.arange(4) < torch.tensor([4, 4, 1, 3, 4, 2, 4, 4])[:, None]


def tokens(length: int, seed: int, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, length, 5, generator=generator, dtype=torch.float64), dim=2)


def test_hand_values() -> None:
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    text = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]])
    to_text, to_image = token_similarity(image, text)
    assert to_text.item() == pytest.approx((1 + 0.8) / 2)
    assert to_image.item() == pytest.approx((1 + 0.8 + 0) / 3)
    to_text, to_image = token_similarity(image, text, torch.tensor([[True, False, True]]))
    assert to_text.item() == pytest.approx((1 + 0) / 2)
    assert to_image.item() == pytest.approx((1 + 0) / 2)


def similarity_oracle(own: Tensor, own_mask: Tensor, others: Tensor, others_mask: Tensor) -> list[list[float]]:
    """Token by token, as the definition reads."""
    return [
        [
            sum(max(float(token.dot(other)) for other in b[mask_b]) for token in a[mask_a]) / int(mask_a.sum())
            for b, mask_b in zip(others, others_mask, strict=True)
        ]
        for a, mask_a in zip(own, own_mask, strict=True)
    ]


def test_similarities_are_the_oracle_and_padding_is_not_looked_at() -> None:
    image, text = tokens(4, 0, 3), tokens(6, 1, 5)
    masks = IMAGE_MASK[:3], TEXT_MASK[:5]
    to_text, to_image = token_similarity(image, text, masks[1], image_mask=masks[0])
    assert (to_text.shape, to_image.shape) == ((3, 5), (5, 3))
    pairs = (to_text, image, masks[0], text, masks[1]), (to_image, text, masks[1], image, masks[0])
    for ours, *given in pairs:
        torch.testing.assert_close(ours, torch.tensor(similarity_oracle(*given), dtype=torch.float64))
    other = text.masked_fill(~masks[1][:, :, None], 7.0)
    assert torch.equal(token_similarity(image, other, masks[1], image_mask=masks[0])[0], to_text)


def filip_oracle(image: Tensor, image_mask: Tensor, text: Tensor, text_mask: Tensor) -> float:
    total = 0.0
    for given in ((image, image_mask, text, text_mask), (text, text_mask, image, image_mask)):
        for i, row in enumerate(similarity_oracle(*given)):
            total += math.log(sum(math.exp(9.0 * value) for value in row)) - 9.0 * row[i]
    return total / (2 * len(image))


def test_the_loss_is_the_oracle() -> None:
    image, text = tokens(4, 2), tokens(6, 3)
    loss = filip_loss(image, text, scale(), TEXT_MASK, image_mask=IMAGE_MASK)
    assert loss.item() == pytest.approx(filip_oracle(image, IMAGE_MASK, text, TEXT_MASK), rel=1e-12)
    everything = filip_oracle(image, torch.ones_like(IMAGE_MASK), text, torch.ones_like(TEXT_MASK))
    assert filip_loss(image, text, scale()).item() == pytest.approx(everything, rel=1e-12)


def best_of(own: Tensor, mask: Tensor, others: Tensor, others_mask: Tensor, share: float) -> Tensor:
    """The mask of the tokens that are kept, one sample after the other."""
    pool = torch.cat([other[kept] for other, kept in zip(others, others_mask, strict=True)])
    result = torch.zeros_like(mask)
    for i, sample in enumerate(own):
        scores = {k: float((pool @ sample[k]).max()) for k in range(len(sample)) if mask[i, k]}
        best = sorted(scores, key=lambda k: -scores[k])[: math.ceil(share * len(scores))]
        result[i, best] = True
    return result


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_kept_tokens_are_those_that_match_best(share: float) -> None:
    image, text = tokens(4, 4), tokens(6, 5)
    images = best_of(image, IMAGE_MASK, text, TEXT_MASK, share)
    texts = best_of(text, TEXT_MASK, image, IMAGE_MASK, share)
    for block in (None, 3):
        options: dict[str, Any] = {"image_mask": IMAGE_MASK, "keep_tokens": share, "block": block}
        loss = filip_loss(image, text, scale(), TEXT_MASK, **options)
        assert loss.item() == pytest.approx(filip_oracle(image, images, text, texts), rel=1e-12)


def test_a_share_is_rounded_up_as_one_counts() -> None:
    """0.1 * 30 is a little above 3 in floats."""
    image, text = tokens(30, 6), tokens(6, 7)
    kept = best_of(image, torch.ones(8, 30, dtype=torch.bool), text, torch.ones_like(TEXT_MASK), 0.0999)
    texts = best_of(text, torch.ones_like(TEXT_MASK), image, torch.ones(8, 30, dtype=torch.bool), 0.1)
    assert kept.sum(dim=1).tolist() == [3] * 8
    loss = filip_loss(image, text, scale(), keep_tokens=0.1).item()
    assert loss == pytest.approx(filip_oracle(image, kept, text, texts), rel=1e-12)


def compute(*slices: slice | None, **options: Any) -> tuple[Tensor, ...]:
    """The mean of the slices' losses, and its gradients."""
    leaves = tokens(4, 8).requires_grad_(), tokens(6, 9).requires_grad_(), scale()
    options = {"image_mask": IMAGE_MASK} | options
    losses = [filip_loss(*leaves, TEXT_MASK, rows=rows, **options) for rows in slices]
    loss = torch.stack(losses).mean()
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("keep", [None, 0.5])
def test_rows_and_blocks_are_the_whole(keep: float | None) -> None:
    whole = compute(None, keep_tokens=keep)
    halves = slice(0, 4), slice(4, 8)
    for rows, block in (((None,), 1), ((None,), 3), ((None,), 20), (halves, None), (halves, 3)):
        for ours, theirs in zip(compute(*rows, keep_tokens=keep, block=block), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The number of elements of the largest tensor that any operation makes, backward too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [value.numel() for value in tree_leaves(result) if isinstance(value, Tensor)]
        self.elements = max([self.elements, *made])
        return result


@pytest.mark.parametrize("keep", [None, 0.5])
@pytest.mark.parametrize(("block", "samples"), [(None, 8), (4, 4), (2, 2)])
def test_no_tensor_is_larger_than_a_block(block: int | None, samples: int, keep: float | None) -> None:
    with Largest() as largest:
        compute(None, block=block, keep_tokens=keep)
    assert largest.elements == samples * 4 * 8 * 6


def test_blocks_keep_nothing_of_their_similarities_for_the_backward_pass() -> None:
    def kept(block: int | None) -> int:
        sizes: list[int] = []

        def pack(value: Tensor) -> Tensor:
            sizes.append(value.numel())
            return value

        leaves = tokens(4, 8).requires_grad_(), tokens(6, 9).requires_grad_(), scale()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            filip_loss(*leaves, block=block)
        return max(sizes)

    assert kept(None) >= 8 * 6 * 8  # the place of each best match
    assert kept(2) <= 8 * 8


def test_gradients_are_exact() -> None:
    leaves = tokens(3, 10, 3).requires_grad_(), tokens(2, 11, 3).requires_grad_(), scale(3.0)
    assert torch.autograd.gradcheck(lambda *x: filip_loss(*x, block=2), leaves)


def test_goes_down() -> None:
    image, text = tokens(4, 12).requires_grad_(), tokens(6, 13).requires_grad_()

    def loss() -> Tensor:
        return filip_loss(F.normalize(image, dim=2), F.normalize(text, dim=2), scale(5.0), TEXT_MASK)

    first, last = go_down(loss, [image, text])
    assert last < 0.9 * first


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="matched rows, got 8 images, 7 texts"):
        filip_loss(tokens(4, 0), tokens(6, 0, 7), scale())
    with pytest.raises(ValueError, match="block is 1 or more, not 0"):
        filip_loss(tokens(4, 0), tokens(6, 0), scale(), block=0)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"share of the tokens in \(0, 1\]"):
            filip_loss(tokens(4, 0), tokens(6, 0), scale(), keep_tokens=share)
