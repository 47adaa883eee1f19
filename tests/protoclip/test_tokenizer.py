import pickle
import random
import time
from pathlib import Path

import open_clip
import pytest
import torch

from protoclip.tokenizer import Tokenizer, create_tokenizer


def hf_tokenizer(path: Path) -> str:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "runs"]
    path.mkdir(exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    return str(path)


def test_ids_of_clips_vocabulary() -> None:
    tokenizer = Tokenizer(8)
    ids = tokenizer(["A dog!", ""])
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[49406, 320, 1929, 256, 49407, 0, 0, 0], [49406, 49407, 0, 0, 0, 0, 0, 0]]
    assert (tokenizer.sot_id, tokenizer.eot_id, tokenizer.vocab_size) == (49406, 49407, 49408)


def test_truncation_keeps_the_end() -> None:
    ids = Tokenizer()(["dog " * 100, "dog " * 75, "dog " * 76])
    assert ids.shape == (3, 77)
    assert ids[:, -1].tolist() == [49407] * 3
    assert (ids == 49407).sum(dim=1).tolist() == [1, 1, 1]


def test_long_captions_are_quick_and_have_the_ids_of_the_whole_text(tmp_path: Path) -> None:
    generator = random.Random(0)
    letters = "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6000))
    words = " ".join("".join(generator.choices("aeiourstln", k=generator.randrange(1, 12))) for _ in range(1500))
    tokenizer, bare = Tokenizer(), open_clip.SimpleTokenizer(context_length=77)
    for text in (
        letters,
        words,
        "a" * 6000,
        "犬が走る" * 1500,
        "\U0001f602" * 6000,
    ):  # longest: eight of these are one id
        assert torch.equal(tokenizer([text]), bare([text]))
    huge = (letters * 2000)[:10_000_000]
    for tokens in (tokenizer, Tokenizer(77, hf_name=hf_tokenizer(tmp_path / "tok"))):
        tokens(["a"])
        started = time.process_time()
        ids = tokens([huge, " ".join(["a dog"] * 2_000_000)])
        assert time.process_time() - started < 2
        assert (ids == tokens.eot_id).sum(dim=1).tolist() == [1, 1]
    assert torch.equal(tokenizer([huge]), bare([letters]))


def test_binary_captions_give_ids() -> None:
    ids = Tokenizer(8)(["\ud800", "\x00\x01", "\udcff a dog", "".join(map(chr, range(256)))])
    assert (ids == 49407).sum(dim=1).tolist() == [1] * 4
    assert ids[1].tolist() == [49406, 49407, 0, 0, 0, 0, 0, 0]


def test_no_character_is_dropped() -> None:
    first, second = Tokenizer(16)(["un café", "un caf"])
    assert not torch.equal(first, second)


def test_one_string_is_one_caption() -> None:
    tokenizer = Tokenizer(8)
    assert torch.equal(tokenizer("a dog"), tokenizer(("a dog",)))


def test_pickle_holds_settings_only() -> None:
    tokenizer = Tokenizer(8)
    ids = tokenizer(["a dog"])
    data = pickle.dumps(tokenizer)
    assert len(data) < 1000
    assert torch.equal(pickle.loads(data)(["a dog"]), ids)


def test_length_comes_from_the_towers_config() -> None:
    assert create_tokenizer("small-resnet").context_length == 32
    assert create_tokenizer("RN50-quickgelu").context_length == 77
    assert create_tokenizer("RN50-quickgelu", context_length=40)(["a"]).shape == (1, 40)


def test_transformers_tokenizer(tmp_path: Path) -> None:
    tokenizer = create_tokenizer("small-vit", hf_text=hf_tokenizer(tmp_path / "tok"), context_length=6)
    assert tokenizer(["a dog", "a dog runs a dog runs"]).tolist() == [[2, 5, 6, 3, 0, 0], [2, 5, 6, 7, 5, 3]]
    assert (tokenizer.sot_id, tokenizer.eot_id, tokenizer.vocab_size) == (2, 3, 8)
    assert pickle.loads(pickle.dumps(tokenizer))(["a dog"]).tolist() == [[2, 5, 6, 3, 0, 0]]


def test_another_vocabulary_has_another_hash(tmp_path: Path) -> None:
    folder = hf_tokenizer(tmp_path / "tok")
    before, called = Tokenizer(8, hf_name=folder), Tokenizer(6, hf_name=folder)
    called(["a dog runs"])
    assert before.vocabulary_hash == called.vocabulary_hash
    for file in ("vocab.txt", "tokenizer.json"):
        path = tmp_path / "tok" / file
        if path.exists():
            path.write_text(path.read_text().replace("runs", "sits"))
    assert Tokenizer(8, hf_name=folder).vocabulary_hash != before.vocabulary_hash


def test_mask_token_and_special_ids(tmp_path: Path) -> None:
    bpe, bert = Tokenizer(8), Tokenizer(8, hf_name=hf_tokenizer(tmp_path / "tok"))
    assert (bpe.mask_id, bpe.special_ids) == (49408, frozenset({49406, 49407}))
    assert (bert.mask_id, bert.special_ids) == (4, frozenset(range(5)))
    for file in (tmp_path / "tok").glob("*.json"):
        file.write_text(file.read_text().replace('"mask_token": "[MASK]"', '"mask_token": null'))
    with pytest.raises(ValueError, match=r"tok has no mask token: choose a towers\.hf_text that has one"):
        _ = Tokenizer(8, hf_name=str(tmp_path / "tok")).mask_id


def test_ids_are_read_back(tmp_path: Path) -> None:
    for tokenizer in (Tokenizer(8), Tokenizer(8, hf_name=hf_tokenizer(tmp_path / "tok"))):
        ids = tokenizer(["a dog runs", ""])
        assert [tokenizer.decode(row) for row in ids] == ["a dog runs", ""]
        ids[0, 2] = tokenizer.mask_id
        assert tokenizer.decode(ids[0]) == "a <mask> runs"
        ids[0, 1] = tokenizer.mask_id
        assert tokenizer.decode(ids[0]) == "<mask> <mask> runs"


def test_options_reach_open_clip() -> None:
    assert torch.equal(Tokenizer(8, options={"clean": "canonicalize"})(["A dog!"]), Tokenizer(8)(["a dog"]))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="context_length must be 3 or more"):
        Tokenizer(2)
    with pytest.raises(ValueError, match="no towers are named"):
        create_tokenizer("RN5O")
