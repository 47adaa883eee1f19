"""Captions without their padding are the same captions."""

from typing import Any

import pytest
import torch

from protoclip import captions
from protoclip.captions import encode_by_length
from protoclip.tokenizer import Tokenizer
from protoclip.towers import TextTower, create_towers

TEXTS = ["a dog", "a very small dog on a hill", "", "dog", "an old red house behind a tall green tree", "!"]
SIZES: dict[str, Any] = {"image_size": 32, "context_length": 20, "embed_dim": 16, "text_layers": 2}
PARTS: dict[str, Any] = {"vision_cfg": {"width": 8, "layers": [1, 1, 1, 1]}, "text_cfg": {"width": 16, "heads": 2}}


def tower(**options: Any) -> TextTower:
    torch.manual_seed(0)
    found = create_towers("small-resnet", **{**SIZES, **PARTS, **options}).text
    assert isinstance(found, TextTower)
    return found.eval().double()


@pytest.mark.parametrize("rows", [1, 2, 4, 100])
def test_outputs_are_those_of_padded_captions(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(captions, "ROWS", rows)
    text, ids = tower(), Tokenizer(20)(TEXTS)
    read: list[int] = []

    def encode(part: torch.Tensor) -> dict[str, torch.Tensor]:
        read.append(part.numel())
        outputs: dict[str, torch.Tensor] = text(part)
        return outputs

    with torch.no_grad():
        expected, found = text(ids), encode_by_length(encode, ids, text.lengths(ids))
    assert sum(read) < ids.numel()
    assert found.keys() == expected.keys()
    mask = expected["token_mask"]
    assert torch.equal(found["token_mask"], mask)
    assert found["tokens"].shape == expected["tokens"].shape
    torch.testing.assert_close(found["tokens"][mask], expected["tokens"][mask], rtol=1e-12, atol=1e-12)
    for name in ("pooled", "embedding", "features"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_a_tower_that_looks_at_the_padding_reads_it() -> None:
    ids = Tokenizer(20)(TEXTS)
    assert tower().lengths(ids).tolist() == [4, 9, 2, 3, 11, 3]
    bidirectional = {**PARTS["text_cfg"], "no_causal_mask": True}
    assert set(tower(text_pooling="max").lengths(ids).tolist()) == {20}
    assert set(tower(text_cfg=bidirectional).lengths(ids).tolist()) == {20}
    assert set(tower(text_cfg={**PARTS["text_cfg"], "pool_type": "last"}).lengths(ids).tolist()) == {20}
