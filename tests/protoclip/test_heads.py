import copy
from typing import Any, Literal

import pytest
import torch
from torch import nn

from protoclip.heads import (
    LinearHead,
    MaskedLMHead,
    ProjectionHead,
    SimCLRHead,
    SimSiamPredictor,
    SimSiamProjector,
    TokenProjection,
)
from protoclip.parts import reads

NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


def test_hand_value_of_one_hidden_layer() -> None:
    head = ProjectionHead(2, hidden_dim=2, out_dim=2, norm="none")
    weights = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]][0], [[1.0, 2.0], [0.0, 1.0]], [1.0, 4.0]]
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(value))
    # relu(2, -5) = (2, 0); (1*2 + 1, 0*2 + 4) = (3, 4); at unit length (.6, .8)
    torch.testing.assert_close(head(torch.tensor([[2.0, -5.0]])), torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm), ("none", nn.Identity)])
def test_each_norm_sits_between_linear_and_relu(norm: Literal["batch", "layer", "none"], kind: type[nn.Module]) -> None:
    head = ProjectionHead(16, hidden_dim=32, out_dim=8, norm=norm)
    assert [type(layer) for layer in head.layers] == [nn.Linear, kind, nn.ReLU, nn.Linear]
    out = head(torch.randn(5, 16))
    assert out.shape == (5, head.out_dim)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize(("hidden_layers", "linear"), [(0, 1), (1, 2), (3, 4)])
def test_number_of_layers(hidden_layers: int, linear: int) -> None:
    head = ProjectionHead(16, hidden_dim=32, out_dim=8, hidden_layers=hidden_layers)
    found = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    assert len(found) == linear
    assert all(layer.bias is not None for layer in found)
    assert head(torch.randn(4, 16)).shape == (4, 8)


def test_published_widths() -> None:
    head = ProjectionHead(1024)
    assert [tuple(layer.weight.shape) for layer in head.layers if isinstance(layer, nn.Linear)] == [
        (2048, 1024),
        (128, 2048),
    ]


def test_deep_copy_starts_equal_and_is_independent() -> None:
    text_head = ProjectionHead(16, hidden_dim=32, out_dim=8)
    image_head = copy.deepcopy(text_head)
    embedding = torch.randn(6, 16)
    before = text_head(embedding)
    assert torch.equal(image_head(embedding), before)
    with torch.no_grad():
        for parameter in image_head.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(text_head(embedding), before)
    assert not torch.allclose(image_head(embedding), before)


def test_half_precision_is_normalised_in_float32() -> None:
    head = ProjectionHead(16, hidden_dim=32, out_dim=8, norm="layer").to(torch.bfloat16)
    out = head(torch.randn(4, 16, dtype=torch.bfloat16))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(4))


def test_gradient_reaches_every_parameter() -> None:
    head = ProjectionHead(16, hidden_dim=32, out_dim=8, norm="layer")
    (head(torch.randn(4, 16)) * torch.randn(4, 8)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_mistakes() -> None:
    unknown: Any = "bn"
    with pytest.raises(ValueError, match="norm must be one of batch, layer, none, not 'bn'"):
        ProjectionHead(16, norm=unknown)
    with pytest.raises(ValueError, match="hidden_layers must be 0 or more"):
        ProjectionHead(16, hidden_layers=-1)


def test_a_linear_head_is_a_matrix() -> None:
    head = LinearHead(3, 2)
    weight = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.0]])
    head.load_state_dict({"linear.weight": weight})
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0, 5.0]])), torch.tensor([[13.0, -4.0]]))
    assert head.out_dim == 2
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [(2, 3)]


def shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Outputs and inputs of the linear layers."""
    return [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, nn.Linear)]


def kinds(head: SimCLRHead | SimSiamProjector | SimSiamPredictor) -> list[type[nn.Module]]:
    return [type(layer) for layer in head.layers]


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_simclr_and_simsiam_have_their_published_layers(norm: Literal["batch", "layer", "none"]) -> None:
    hidden = [nn.Linear, NORMS[norm], nn.ReLU]
    head = SimCLRHead(2048, norm=norm)
    assert shapes(head) == [(4096, 2048), (4096, 4096), (256, 4096)]
    assert kinds(head) == [*hidden, *hidden, nn.Linear]
    projector = SimSiamProjector(512, norm=norm)
    assert shapes(projector) == [(1024, 512), (1024, 1024), (1024, 1024)]
    assert kinds(projector) == [*hidden, *hidden, nn.Linear, NORMS[norm]]
    predictor = SimSiamPredictor(norm=norm)
    assert shapes(predictor) == [(512, 1024), (1024, 512)]
    assert kinds(predictor) == [*hidden, nn.Linear]


def test_what_heads_read() -> None:
    kinds = (ProjectionHead, LinearHead, SimSiamProjector, SimCLRHead, MaskedLMHead, TokenProjection)
    assert [reads(kind) for kind in kinds] == ["embedding"] * 3 + ["pooled"] + ["tokens"] * 2
    assert reads(SimCLRHead(4, hidden_dim=4, out_dim=2)) == "pooled"


def test_outputs_are_at_unit_length_where_losses_want_it() -> None:
    embedding, tokens = torch.randn(6, 8), torch.randn(6, 5, 8)
    for out in (SimCLRHead(8, hidden_dim=16, out_dim=4)(embedding), TokenProjection(8, 4)(tokens)):
        assert out.shape[-1] == 4
        torch.testing.assert_close(out.norm(dim=-1), torch.ones(out.shape[:-1]))
    projector = SimSiamProjector(8, 4, norm="layer")
    torch.testing.assert_close(projector(embedding).mean(dim=1), torch.zeros(6))
    assert SimSiamPredictor(4, 2)(projector(embedding)).shape == (6, 4)


def test_words_and_tokens_are_mapped_one_by_one() -> None:
    words = MaskedLMHead(8, vocab_size=11)
    tokens = torch.randn(2, 5, 8)
    assert words(tokens).shape == (2, 5, words.out_dim)
    assert words.linear.bias is not None
    assert MaskedLMHead(8).out_dim == 49408
    for head in (words, TokenProjection(8, 4)):
        torch.testing.assert_close(head(tokens)[1, 3], head(tokens[1, 3]))


def test_mistakes_of_norms() -> None:
    unknown: Any = "bn"
    for build in (SimSiamProjector, SimSiamPredictor, SimCLRHead):
        with pytest.raises(ValueError, match="norm must be one of batch, layer, none, not 'bn'"):
            build(16, norm=unknown)
