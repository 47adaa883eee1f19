from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.towers import Towers, create_towers

ROI = 7
TEXT = {"width": 16, "heads": 2, "vocab_size": 60}
SMALL: dict[str, dict[str, Any]] = {
    "small-resnet": {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8}, "image_size": 32},
    "small-vit": {"vision_cfg": {"layers": 4, "width": 16, "head_width": 8}, "image_size": 16},
}
CASES = [
    ("small-resnet", "learned"),
    ("small-resnet", "mean"),
    ("small-vit", "learned"),
    ("small-vit", "mean"),
    ("small-vit", "shared"),
]
BOXES = (3, 1, 5)


def towers_of(name: str, class_token: Any = "learned", **options: Any) -> Towers:
    torch.manual_seed(0)
    settings = SMALL[name] | {"text_layers": 1, "text_cfg": TEXT, "roi_class_token": class_token, "roi_dim": ROI}
    towers = create_towers(name, **(settings | options)).double().eval()
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return towers


def regions(padding: int = 0) -> Tensor:
    """Pictures of 3, 1 and 5 boxes, in a batch that has room for more."""
    boxes = torch.randn(3, 5, ROI, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    boxes *= torch.arange(5)[None, :, None] < torch.tensor(BOXES)[:, None, None]
    return F.pad(boxes, (0, 0, 0, padding))


def attend(x: Tensor, q: Any, k: Any, v: Any, out: Any, heads: int) -> Tensor:
    """Multi-head self-attention [n, width] by loops over heads and places."""
    queries, keys, values = q(x), k(x), v(x)
    width = queries.shape[1] // heads
    result = torch.zeros_like(queries)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for place in range(len(x)):
            weights = torch.stack([queries[place, part] @ key / width**0.5 for key in keys[:, part]]).softmax(0)
            result[place, part] = sum(w * value for w, value in zip(weights, values[:, part], strict=True))
    mapped: Tensor = out(result)
    return mapped


def by_hand(towers: Towers, boxes: Tensor, class_token: str) -> tuple[Tensor, Tensor]:
    """Pooled state and embedding of one picture's real boxes [n, roi_dim]."""
    visual: Any = towers.image.visual
    entrance: Any = towers.image.regions
    mapped = boxes @ entrance.projection.weight.T
    first = {
        "learned": entrance.class_token,
        "mean": mapped.mean(0),
        "shared": getattr(visual, "class_embedding", None),
    }
    states = torch.cat([first[class_token][None], mapped])
    if hasattr(visual, "attnpool"):
        pool, states = visual.attnpool, entrance.norm(states)
        heads = pool.num_heads
        return states[1:].mean(0), attend(states, pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj, heads)[0]
    states = visual.ln_pre(states)
    for block in visual.transformer.resblocks[-entrance.blocks :]:
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        q, k, v = (partial(F.linear, weight=w, bias=b) for w, b in zip(weights, biases, strict=True))
        states = states + attend(block.ln_1(states), q, k, v, block.attn.out_proj, block.attn.num_heads)
        states = states + block.mlp(block.ln_2(states))
    pooled = visual.ln_post(states[0])
    return pooled, pooled @ visual.proj


@pytest.mark.parametrize(("name", "class_token"), CASES)
def test_against_loops(name: str, class_token: str) -> None:
    towers = towers_of(name, class_token)
    out = towers.image(regions())
    assert set(out) == {"pooled", "embedding", "features"}
    with torch.no_grad():
        for row, (boxes, count) in enumerate(zip(regions(), BOXES, strict=True)):
            pooled, embedding = by_hand(towers, boxes[:count], class_token)
            torch.testing.assert_close(out["pooled"][row], pooled)
            torch.testing.assert_close(out["embedding"][row], embedding)
            torch.testing.assert_close(out["features"][row], embedding / embedding.norm())


@pytest.mark.parametrize(("name", "class_token"), CASES)
def test_padding_and_order_of_boxes_change_nothing(name: str, class_token: str) -> None:
    towers = towers_of(name, class_token)
    with torch.no_grad():
        expected = towers.image(regions())
        order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
        for other in (regions(padding=3), regions().flip(1), regions()[:, order]):
            for key, value in towers.image(other).items():
                torch.testing.assert_close(value, expected[key])
        # and without gradient in evaluation mode, torch has another way of computing blocks
        torch.testing.assert_close(towers.train().image(regions())["embedding"], expected["embedding"])


@pytest.mark.parametrize(("name", "class_token"), CASES)
def test_a_picture_without_boxes_is_zero_and_its_gradient_finite(name: str, class_token: str) -> None:
    towers = towers_of(name, class_token).float().train()
    boxes = regions().float()
    boxes[1] = 0
    boxes.requires_grad_()
    out = towers.image(boxes)
    for value in out.values():
        assert not value[1].any()
        assert value[0].any()
    (out["features"] @ torch.randn(out["features"].shape[1])).sum().backward()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()
    assert not boxes.grad[1].any()
    for key, parameter in towers.image.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    for key, parameter in towers.image.get_submodule("regions").named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


def test_pictures_pass_as_without_regions() -> None:
    for name in SMALL:
        plain, towers = towers_of(name, roi_dim=None), towers_of(name)
        plain.load_state_dict({k: v for k, v in towers.state_dict().items() if not k.startswith("image.regions.")})
        images = torch.randn(2, 3, plain.image.image_size, plain.image.image_size).double()
        assert torch.equal(plain.image(images)["embedding"], towers.image(images)["embedding"])
        assert towers.not_in_open_clip == ()


def test_initial_projection() -> None:
    torch.manual_seed(0)
    towers = create_towers("small-resnet", text_layers=1, text_cfg=TEXT, roi_dim=500)
    entrance: Any = towers.image.regions
    width = towers.image.pooled_dim
    assert entrance.projection.weight.std().item() == pytest.approx(width**-0.5, rel=0.02)
    assert entrance.projection.bias is None
    assert entrance.class_token.std().item() == pytest.approx(width**-0.5, rel=0.2)


def test_leff_and_regions_share_a_tower() -> None:
    towers = towers_of("small-vit", leff_blocks=1)
    assert towers.image(regions())["embedding"].isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "mend"),
    [
        ("small-resnet", {"roi_class_token": "shared"}, "no class token to share; set roi_class_token"),
        ("small-resnet", {"roi_class_token": "first"}, "one of learned, mean, shared, not 'first'"),
        ("small-vit", {"roi_blocks": 5}, "roi_blocks=5 of 4 blocks, 0 with LeFF: set it to 1 to 4"),
        ("small-vit", {"leff_blocks": 2}, "roi_blocks=3 of 4 blocks, 2 with LeFF: set it to 1 to 2"),
        ("small-vit", {"vision_cfg": {"pool_type": "avg"}}, "pool_type='tok'"),
        ("small-vit", {"timm_image": "test_vit", "image_size": 160, "vision_cfg": None}, "set roi_dim=null"),
    ],
)
def test_mistakes_are_told_in_one_line(name: str, options: dict[str, Any], mend: str) -> None:
    with pytest.raises(ValueError, match=mend) as caught:
        towers_of(name, **options)
    assert "\n" not in str(caught.value)


def test_a_tower_without_regions_says_so() -> None:
    with pytest.raises(ValueError, match=r"set towers\.roi_dim"):
        towers_of("small-vit", roi_dim=None).image(regions())
