from pathlib import Path

import pytest

from protoclip.cli.build import build_module
from tests.tiny import tiny_config

VIT = ("towers=small_vit", "+towers.vision_cfg={width:16,layers:1,head_width:8,patch_size:16}")


@pytest.mark.parametrize("method", ["clip", "protoclip", "slip", "declip", "defilip", "pyramidclip"])
def test_nothing_is_frozen_where_the_joint_embedding_is_trained(tmp_path: Path, method: str) -> None:
    words = (*VIT, "towers.roi_blocks=1") if method == "pyramidclip" else ()
    module = build_module(tiny_config(tmp_path, method, *words))
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert module.training


@pytest.mark.parametrize(
    ("words", "frozen"),
    [
        ((), ("image.visual.attnpool.", "text.text.text_projection")),
        (VIT, ("image.visual.ln_post.", "image.visual.proj")),
    ],
)
def test_tokens_alone_leave_the_joint_projections(
    tmp_path: Path, words: tuple[str, ...], frozen: tuple[str, ...]
) -> None:
    module = build_module(tiny_config(tmp_path, "filip", *words))
    still = {name for name, parameter in module.towers.named_parameters() if not parameter.requires_grad}
    assert still
    assert all(name.startswith((*frozen, "text.text.text_projection")) for name in still)
    assert all(any(name.startswith(part) for name in still) for part in frozen)
    assert all(parameter.requires_grad for parameter in module.heads.parameters())


def test_statistics_stay(tmp_path: Path) -> None:
    module = build_module(tiny_config(tmp_path, "filip"))
    counts = [value for name, value in module.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert not any(bool(count) for count in counts)
