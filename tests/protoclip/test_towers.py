from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoclip.tokenizer import Tokenizer, create_tokenizer
from protoclip.towers import Towers, create_towers, model_config

CAPTIONS = ["a dog", "! a black cat runs over the grass ."]


def hf_folder(path: Path) -> str:
    """A transformers text model of two layers, as a user's folder would hold it."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, pad_token_id=0
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    return str(path)


def shake(towers: nn.Module) -> None:
    """Away from the initial values, where zeros and ones would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def inputs(towers: Towers, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size, length = towers.image.image_size, towers.text.context_length
    images = torch.randn(count, 3, size, size, generator=generator)
    if towers.text.tokenizer_name is None:
        return images, Tokenizer(length)(CAPTIONS[:count])
    ids = torch.randint(1, 60, (count, length), generator=generator)
    ids[0, 5:] = 0
    return images, ids


def open_clip_state(towers: Towers) -> dict[str, Tensor]:
    """What an export writes: keys without their first word, and the temperature."""
    state = {key.split(".", 1)[1]: value for key, value in towers.state_dict().items()}
    return {**state, "logit_scale": torch.tensor(towers.log_scale)}


SMALL: list[tuple[str, dict[str, Any]]] = [
    ("small-resnet", {}),
    ("small-resnet", {"image_size": 64, "embed_dim": 32, "text_layers": 1, "context_length": 12}),
    ("small-vit", {}),
    ("small-vit", {"vision_cfg": {"pool_type": "avg", "final_ln_after_pool": True}, "text_cfg": {"pool_type": "last"}}),
    ("small-vit", {"text_cfg": {"proj_bias": True, "pool_type": "first", "no_causal_mask": True}}),
    ("small-vit", {"mask_token": True}),
    ("small-vit", {"timm_image": "test_vit", "image_size": 160}),
    ("small-vit", {"timm_image": "test_convnext", "image_size": 64}),
    ("small-vit", {"timm_image": "test_mambaout", "vision_cfg": {"timm_proj": "", "timm_pool": "avg"}}),
    (
        "small-vit",
        {"timm_image": "resnet10t", "image_size": 176, "vision_cfg": {"timm_proj": "", "timm_pool": "rot_attn"}},
    ),
    ("small-vit", {"hf_text": "HF", "text_cfg": {"hf_pooler_type": "cls_last_hidden_state_pooler"}}),
]


@pytest.mark.parametrize(("name", "changes"), SMALL)
def test_open_clip_loads_the_state_and_gives_the_same_embeddings(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    from open_clip.model import CustomTextCLIP

    if "hf_text" in changes:
        changes = {**changes, "hf_text": hf_folder(tmp_path)}
    towers = create_towers(name, **changes)
    shake(towers)
    theirs = CustomTextCLIP(**towers.config)
    theirs.load_state_dict(open_clip_state(towers), strict=True)
    towers.eval()
    theirs.eval()
    images, ids = inputs(towers)
    with torch.no_grad():
        image, text = towers.image(images), towers.text(ids)
        torch.testing.assert_close(image["embedding"], theirs.encode_image(images), rtol=0, atol=0)
        torch.testing.assert_close(text["embedding"], theirs.encode_text(ids), rtol=0, atol=0)
    check_shapes(towers, image, text, ids)


def check_shapes(towers: Towers, image: dict[str, Tensor], text: dict[str, Tensor], ids: Tensor) -> None:
    for tower, out in ((towers.image, image), (towers.text, text)):
        assert out["pooled"].shape == (len(ids), tower.pooled_dim)
        assert out["embedding"].shape == out["features"].shape == (len(ids), tower.embed_dim)
        assert out["tokens"].shape == (len(ids), out["tokens"].shape[1], tower.token_dim)
        torch.testing.assert_close(out["features"], F.normalize(out["embedding"], dim=-1))
    assert text["tokens"].shape[:2] == text["token_mask"].shape == ids.shape
    assert text["token_mask"].dtype == torch.bool
    assert int(ids.max()) < towers.text.vocab_size


@pytest.mark.parametrize(
    ("name", "pooled_dim", "embed_dim", "tokens"),
    [("RN50-quickgelu", 2048, 1024, (1, 49, 2048)), ("ViT-B-32", 768, 512, (1, 49, 768))],
)
def test_full_size_towers(name: str, pooled_dim: int, embed_dim: int, tokens: tuple[int, ...]) -> None:
    towers = create_towers(name, text_layers=1).eval()
    assert (towers.image.pooled_dim, towers.image.embed_dim, towers.image.image_size) == (pooled_dim, embed_dim, 224)
    assert (towers.text.context_length, towers.text.vocab_size, towers.text.eot_id) == (77, 49_408, 49_407)
    assert towers.image.mean == (0.48145466, 0.4578275, 0.40821073)
    assert towers.image.std == (0.26862954, 0.26130258, 0.27577711)
    images, ids = inputs(towers, count=1)
    with torch.no_grad():
        image, text = towers.image(images), towers.text(ids)
        assert torch.equal(image["embedding"], towers.image.visual(images))
        assert torch.equal(text["embedding"], towers.text.text(ids))
    assert image["tokens"].shape == tokens
    check_shapes(towers, image, text, ids)


def test_resnet_tokens_are_layer4_and_pooled_is_their_mean() -> None:
    towers = create_towers("small-resnet", image_size=64).eval()
    shake(towers)
    images, _ = inputs(towers)
    layer4 = towers.image.visual.forward_intermediates(images, indices=1, intermediates_only=True)
    out = towers.image(images)
    grid = layer4["image_intermediates"][-1]
    torch.testing.assert_close(out["tokens"], grid.flatten(2).transpose(1, 2))
    torch.testing.assert_close(out["pooled"], grid.mean(dim=(2, 3)))


def test_vit_tokens_are_patches_before_the_last_norm() -> None:
    towers = create_towers("small-vit").eval()
    shake(towers)
    images, _ = inputs(towers)
    visual = towers.image.visual
    theirs = visual.forward_intermediates(images, indices=1, output_fmt="NLC", output_extra_tokens=True)
    out = towers.image(images)
    torch.testing.assert_close(out["tokens"], theirs["image_intermediates"][-1])
    torch.testing.assert_close(out["pooled"], visual.ln_post(theirs["image_intermediates_prefix"][-1][:, 0]))


@pytest.mark.parametrize(("name", "tokens"), [("test_vit", 100), ("test_convnext", 25)])
def test_timm_tokens_without_prefix(name: str, tokens: int) -> None:
    towers = create_towers("small-vit", timm_image=name, image_size=160).eval()
    trunk = towers.image.visual.trunk
    images, _ = inputs(towers)
    out = towers.image(images)
    assert out["tokens"].shape[1] == tokens
    states = trunk.forward_features(images)
    positions = states[:, trunk.num_prefix_tokens :] if states.ndim == 3 else states.permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(out["tokens"], positions)


def test_timm_vit_takes_another_size() -> None:
    towers = create_towers("small-vit", timm_image="test_vit", image_size=96)
    images, _ = inputs(towers)
    assert towers.image.image_size == images.shape[-1] == 96
    assert towers.image(images)["tokens"].shape[1] == 36


def test_channels_last_map_of_timm() -> None:
    towers = create_towers("small-vit", timm_image="swin_tiny_patch4_window7_224", image_size=224).eval()
    images, _ = inputs(towers, count=1)
    with torch.no_grad():
        out = towers.image(images)
    assert out["tokens"].shape == (1, 49, 768)
    torch.testing.assert_close(out["tokens"].mean(dim=1), out["pooled"])


def test_one_forward_of_the_backbone() -> None:
    towers = create_towers("small-vit", timm_image="test_vit", image_size=160)
    calls = []
    for block in (towers.image.visual.trunk.blocks[0], towers.text.text.transformer.resblocks[0]):
        block.register_forward_hook(lambda module, *_: calls.append(module))
    images, ids = inputs(towers)
    towers.image(images)
    towers.text(ids)
    assert len(calls) == 2


def test_hf_text_tower(tmp_path: Path) -> None:
    towers = create_towers("small-vit", hf_text=hf_folder(tmp_path), context_length=16)
    assert towers.text.text.transformer.training
    assert (towers.text.token_dim, towers.text.embed_dim, towers.text.context_length) == (32, 128, 16)
    assert (towers.text.vocab_size, towers.text.tokenizer_name) == (60, str(tmp_path))
    _, ids = inputs(towers.eval())
    out = towers.text(ids)
    assert torch.equal(out["token_mask"], ids != 0)
    torch.testing.assert_close(out["embedding"], towers.text.text(ids))
    torch.testing.assert_close(out["pooled"][0], out["tokens"][0, :5].mean(dim=0))
    # the words behind the padding mask do not reach the embedding
    from transformers import BertModel

    model: nn.Module = BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    states = model.train(False)(ids[:1, :5]).last_hidden_state
    torch.testing.assert_close(out["tokens"][:1, :5], states)


def test_long_captions_keep_their_end_and_differ() -> None:
    towers = create_towers("small-vit").eval()
    ids = create_tokenizer("small-vit")(["red dog " * 60, "blue cat " * 60])
    out = towers.text(ids)
    assert ids[:, -1].tolist() == [towers.text.eot_id] * 2
    assert out["token_mask"].all()
    assert not torch.allclose(out["features"][0], out["features"][1], atol=1e-3)


def test_exclamation_mark_is_a_token() -> None:
    ids = Tokenizer(32)(["!^"])
    assert ids[0, :5].tolist() == [49406, 0, 317, 49407, 0]
    assert create_towers("small-vit").text(ids)["token_mask"].sum() == 4


def test_mask_token_is_not_where_the_caption_is_pooled() -> None:
    towers = create_towers("small-vit", mask_token=True).eval()
    shake(towers)
    assert (towers.text.vocab_size, towers.text.eot_id) == (49_409, 49_407)
    ids = Tokenizer(32)(["a dog runs", "a dog sleeps"])
    ids[:, 2] = 49_408
    out = towers.text(ids)
    assert out["token_mask"].sum(dim=1).tolist() == [5, 5]
    projection = towers.text.text.text_projection
    torch.testing.assert_close(out["embedding"], out["tokens"][:, 4] @ projection)
    # under the causal mask, only a state behind the mask token tells the two captions apart
    assert not torch.allclose(out["features"][0], out["features"][1], atol=1e-3)


def test_mask_token_changes_no_other_embedding() -> None:
    torch.manual_seed(0)
    plain = create_towers("small-vit").eval()
    torch.manual_seed(0)
    masked = create_towers("small-vit", mask_token=True).eval()
    _, ids = inputs(plain)
    assert torch.equal(plain.text(ids)["embedding"], masked.text(ids)["embedding"])
    # a tower that is built again from the exported config ends captions at the same id
    again = create_towers("small-vit", text_cfg=masked.config["text_cfg"])
    assert (again.text.vocab_size, again.text.eot_id) == (49_409, 49_407)


def test_second_end_of_text_is_padding() -> None:
    towers = create_towers("small-vit").eval()
    ids = torch.full((1, 32), 49_407)
    ids[0, :3] = torch.tensor([49_406, 320, 1929])
    assert towers.text(ids)["token_mask"].sum() == 4


@pytest.mark.parametrize("name", ["small-resnet", "small-vit"])
@pytest.mark.parametrize("grad_checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore:grad_checkpointing has no effect")
def test_gradient_reaches_every_parameter(name: str, grad_checkpointing: bool) -> None:
    towers = create_towers(name, grad_checkpointing=grad_checkpointing)
    shake(towers)
    images, ids = inputs(towers)
    target = torch.randn(2, 128, generator=torch.Generator().manual_seed(2))
    ((towers.image(images)["features"] + towers.text(ids)["features"]) * target).sum().backward()
    for key, parameter in towers.named_parameters():
        # the softmax of an attention does not see what is added to all its keys
        assert parameter.grad is not None, key
        assert "k_proj.bias" in key or parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("options", [{}, {"leff_blocks": 2}, {"vision_cfg": {"patch_dropout": 0.5}}])
def test_grad_checkpointing_leaves_gradients_as_they_are(options: dict[str, Any]) -> None:
    gradients = []
    for grad_checkpointing in (False, True):
        torch.manual_seed(0)
        towers = create_towers("small-vit", grad_checkpointing=grad_checkpointing, **options).double()
        images, ids = inputs(towers)
        image, text = towers.image(images.double()), towers.text(ids)
        (image["tokens"].square().sum() + text["tokens"].pow(3).sum() + image["features"].sum()).backward()
        gradients.append({key: parameter.grad for key, parameter in towers.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_patches_are_dropped_in_training_alone() -> None:
    towers = create_towers("small-vit", vision_cfg={"patch_dropout": 0.75})
    images, _ = inputs(towers)
    assert towers.image(images)["tokens"].shape == (2, 9, 128)
    assert towers.eval().image(images)["tokens"].shape == (2, 36, 128)


def test_text_pooled_at_its_maxima() -> None:
    towers = create_towers("small-vit", text_pooling="max").eval()
    assert towers.not_in_open_clip == ("text_pooling=max",)
    shake(towers)
    _, ids = inputs(towers)
    out = towers.text(ids)
    # the places behind the end of the caption count, as in the released weights
    expected = torch.stack([states.max(dim=0).values for states in out["tokens"]])
    torch.testing.assert_close(out["pooled"], expected)
    torch.testing.assert_close(out["embedding"], expected @ towers.text.text.text_projection)
    real = out["tokens"].masked_fill(~out["token_mask"][:, :, None], -torch.inf).amax(dim=1)
    assert not torch.allclose(real, expected)


def test_grad_checkpointing_warns_where_it_has_no_effect() -> None:
    with pytest.warns(UserWarning, match="no effect on open_clip's ResNets"):
        create_towers("small-resnet", grad_checkpointing=True)
    towers = create_towers("small-vit", grad_checkpointing=True)
    assert towers.image.visual.transformer.grad_checkpointing
    assert towers.text.text.transformer.grad_checkpointing


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_features_are_normalised_in_float32_or_better(dtype: torch.dtype, expected: torch.dtype) -> None:
    towers = create_towers("small-vit").to(dtype)
    images, ids = inputs(towers)
    for out in (towers.image(images.to(dtype)), towers.text(ids)):
        assert out["embedding"].dtype == dtype
        assert out["features"].dtype == expected
        torch.testing.assert_close(out["features"].norm(dim=-1), torch.ones(2, dtype=expected))


def test_weights_from_a_file(tmp_path: Path) -> None:
    towers = create_towers("small-vit")
    shake(towers)
    state = open_clip_state(towers)
    state["logit_scale"] = torch.tensor(4.0)
    torch.save(state, tmp_path / "weights.pt")
    loaded = create_towers("small-vit", pretrained=str(tmp_path / "weights.pt"))
    assert loaded.log_scale == 4.0
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, towers.state_dict()[key]), key
    with pytest.raises(
        ValueError,
        match=r"small-vit with pretrained=.*, embed_dim=64: the weights are of another model .size mismatch for \S+",
    ) as caught:
        create_towers("small-vit", pretrained=str(tmp_path / "weights.pt"), embed_dim=64)
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.pt").write_text("no weights")
    with pytest.raises(
        ValueError,
        match=r"cannot build small-vit with pretrained=.*bad\.pt: the file holds no weights that can be read",
    ):
        create_towers("small-vit", pretrained=str(tmp_path / "bad.pt"))
    (tmp_path / "text.csv").write_text("a,b\n" * 50)
    with pytest.raises(ValueError, match=r"text\.csv: the file holds no weights that can be read: give another$"):
        create_towers("small-vit", pretrained=str(tmp_path / "text.csv"))
    torch.save({"visual.x": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r'the weights are of another model \(Missing key\(s\) in state_dict: "\w+"\): '
    ):
        create_towers("small-vit", pretrained=str(tmp_path / "other.pt"))


def test_a_tag_without_network(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object, **__: object) -> str:
        raise FileNotFoundError("Failed to download file: no connection. Please check your connection and try again")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    with pytest.raises(ValueError, match=r"yfcc15m: the weights cannot be downloaded: give a file of them in place"):
        create_towers("RN50-quickgelu", pretrained="yfcc15m")
    assert not caplog.records


def test_unknown_weights_list_the_tags() -> None:
    with pytest.raises(ValueError, match=r"'yfcc' is neither a file nor a tag of RN50-quickgelu; tags: .*yfcc15m"):
        create_towers("RN50-quickgelu", pretrained="yfcc")
    with pytest.raises(ValueError, match=r"neither a file nor a tag of small-vit; tags: it has none"):
        create_towers("small-vit", pretrained="/nowhere/weights.pt")


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"named 'RN50-quickgel'; near it: RN50-quickgelu"):
        create_towers("RN50-quickgel")
    with pytest.raises(ValueError, match="captioning model"):
        create_towers("coca_ViT-B-32")
    with pytest.raises(ValueError, match="captioning models"):
        create_towers("small-vit", text_cfg={"embed_cls": True})
    with pytest.raises(ValueError, match="holds no open_clip_config"):
        create_towers(f"local-dir:{tmp_path}")
    with pytest.raises(ValueError, match=r"cannot build small-vit with vision_cfg=.*: RuntimeError: Unknown model"):
        create_towers("small-vit", timm_image="no_such_net")
    with pytest.raises(ValueError, match=r"cannot build small-vit with text_cfg=.*nothing"):
        create_towers("small-vit", hf_text=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="text_layers is for open_clip's text transformer"):
        create_towers("small-vit", hf_text="some-model", text_layers=3)
    with pytest.raises(ValueError, match="own mask token"):
        create_towers("small-vit", hf_text=hf_folder(tmp_path / "hf"), mask_token=True)
    with pytest.raises(ValueError, match="leave text_pooling=eot"):
        create_towers("small-vit", hf_text=hf_folder(tmp_path / "max"), text_pooling="max")
    with pytest.raises(ValueError, match="text_pooling is one of eot, max, not 'mean'"):
        create_towers("small-vit", text_pooling="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one side of a square"):
        create_towers("small-vit", vision_cfg={"image_size": (48, 64)})
    with pytest.raises(ValueError, match="set vision_cfg timm_proj=''"):
        create_towers("small-vit", timm_image="test_mambaout")


def test_config_leaves_open_clips_own_untouched() -> None:
    import open_clip

    changed = model_config("RN50-quickgelu", text_layers=3, image_size=160, context_length=40)
    assert (changed["text_cfg"]["layers"], changed["text_cfg"]["context_length"]) == (3, 40)
    assert changed["vision_cfg"]["image_size"] == 160
    assert open_clip.get_model_config("RN50-quickgelu")["text_cfg"]["layers"] == 12


def test_copies_and_pickles() -> None:
    import copy
    import pickle

    towers = create_towers("small-resnet").eval()
    images, ids = inputs(towers)
    for twin in (copy.deepcopy(towers), pickle.loads(pickle.dumps(towers))):
        assert torch.equal(twin.image(images)["embedding"], towers.image(images)["embedding"])
        assert torch.equal(twin.text(ids)["embedding"], towers.text(ids)["embedding"])


def test_weights_of_quickgelu_are_refused_by_a_model_without(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def reached(*_: Any, **__: Any) -> None:
        raise RuntimeError("no download")

    monkeypatch.setattr(open_clip, "create_model", reached)
    with pytest.raises(ValueError, match=r"^pretrained=yfcc15m was trained with QuickGELU: .*RN50-quickgelu$"):
        create_towers("RN50", pretrained="yfcc15m")
    for name, tag in (("RN50-quickgelu", "yfcc15m"), ("roberta-ViT-B-32", "laion2b_s12b_b32k")):
        with pytest.raises(ValueError, match="no download"):
            create_towers(name, pretrained=tag)
