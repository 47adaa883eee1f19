from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoclip.towers import Towers, create_towers
from protoclip.towers.leff import LeFF

TINY: dict[str, Any] = {
    "image_size": 24,
    "text_layers": 1,
    "vision_cfg": {"layers": 3, "width": 16, "head_width": 8},
    "text_cfg": {"width": 16, "heads": 2, "vocab_size": 60},
}


def shaken(**options: Any) -> Towers:
    """A ViT of 3 x 3 patches whose norms are neither ones nor zeros."""
    torch.manual_seed(0)
    towers = create_towers("small-vit", **TINY, **options).double()
    with torch.no_grad():
        for value in [*towers.parameters(), *(b for b in towers.buffers() if b.is_floating_point() and b.ndim == 1)]:
            value.add_(torch.rand_like(value) * 0.3)
    return towers


def norm(values: Tensor, layer: nn.Module) -> Tensor:
    """The BatchNorm of a layer over all but the last axis, in training or evaluation mode."""
    parts = {name: getattr(layer, name) for name in ("running_mean", "running_var", "weight", "bias")}
    axes = tuple(range(values.ndim - 1))
    mean = values.mean(axes) if layer.training else parts["running_mean"]
    var = values.var(axes, correction=0) if layer.training else parts["running_var"]
    normalised: Tensor = (values - mean) / (var + 1e-5) ** 0.5 * parts["weight"] + parts["bias"]
    return normalised


def quick_gelu(values: Tensor) -> Tensor:
    return values * torch.sigmoid(1.702 * values)


def by_hand(leff: LeFF, states: Tensor) -> Tensor:
    """One LeFF with a loop over places and their neighbours."""
    hidden = quick_gelu(norm(F.linear(states[:, 1:], leff.c_fc.weight, leff.c_fc.bias), leff.norm_fc))
    grid = hidden.reshape(len(states), 3, 3, -1)
    mixed = torch.zeros_like(grid)
    for row in range(3):
        for column in range(3):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < 3 and 0 <= column + right < 3:
                        weight = leff.conv.weight[:, 0, 1 + down, 1 + right]
                        mixed[:, row, column] += weight * grid[:, row + down, column + right]
    mixed = quick_gelu(norm(mixed, leff.norm_conv)).reshape(len(states), 9, -1)
    patches = quick_gelu(norm(F.linear(mixed, leff.c_proj.weight, leff.c_proj.bias), leff.norm_proj))
    return torch.cat([states[:, :1], patches], dim=1)


@pytest.mark.parametrize("training", [True, False])
def test_one_block_by_hand(training: bool) -> None:
    towers = shaken(leff_blocks=2).train(training)
    block = towers.image.visual.transformer.resblocks[0]
    states = torch.randn(2, 10, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    attended = states + block.attention(block.ln_1(states))
    with torch.no_grad():
        expected = attended + by_hand(block.mlp, block.ln_2(attended))
        found = block(states)
    torch.testing.assert_close(found, expected)
    # the class token's feed-forward is the identity
    torch.testing.assert_close(found[:, 0], (attended + block.ln_2(attended))[:, 0])


def test_the_first_blocks_have_it_and_the_linear_layers_are_the_towers_own() -> None:
    torch.manual_seed(0)
    plain = create_towers("small-vit", **TINY)
    torch.manual_seed(0)
    towers = create_towers("small-vit", **TINY, leff_blocks=2)
    blocks, before = (pair.image.visual.transformer.resblocks for pair in (towers, plain))
    assert [isinstance(block.mlp, LeFF) for block in blocks] == [True, True, False]
    for name in ("c_fc", "c_proj"):
        assert torch.equal(getattr(blocks[1].mlp, name).weight, getattr(before[1].mlp, name).weight)
    assert towers.not_in_open_clip == ("leff_blocks=2",)
    assert plain.not_in_open_clip == ()


def test_gradient_reaches_every_parameter() -> None:
    towers = shaken(leff_blocks=2)
    towers.image(torch.randn(3, 3, 24, 24).double())["features"][:, 0].sum().backward()
    for name, parameter in towers.image.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("name", "options", "mend"),
    [
        ("small-vit", {"leff_blocks": 5}, "leff_blocks=5 is more than the tower's 4 blocks"),
        ("small-vit", {"vision_cfg": {"patch_size": (8, 4)}}, "not 6 x 12: set image_size or leff_blocks=0"),
        ("small-vit", {"vision_cfg": {"patch_dropout": 0.5}}, "leave patch_dropout out"),
        ("small-resnet", {}, "set leff_blocks=0"),
        ("small-vit", {"timm_image": "test_vit", "image_size": 160}, "set leff_blocks=0"),
    ],
)
def test_mistakes_are_told_in_one_line(name: str, options: dict[str, Any], mend: str) -> None:
    with pytest.raises(ValueError, match=mend) as caught:
        create_towers(name, **{"leff_blocks": 1, "text_layers": 1, "text_cfg": TINY["text_cfg"], **options})
    assert "\n" not in str(caught.value)
