"""Summaries by the first words, and by a tiny T5."""

import json
from pathlib import Path

import pytest

from protoclip.summarisers import Lead, Seq2Seq
from tests.tiny_t5 import save_tiny_t5

CAPTIONS = ["a red dog", "the blue sky", "the house in the tree a b c", "blue cat grass sky the tree the tree"]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny T5."""
    return save_tiny_t5(tmp_path_factory.mktemp("t5"))


def test_the_lead_is_the_first_words() -> None:
    assert Lead(3)(["a red  dog on\ngrass", "a cat", " "]) == ["a red dog", "a cat", ""]
    assert Lead().describe() == {"library": None, "name": "lead", "words": 8}


def test_a_model_generates_from_the_prefixed_caption(t5: str) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(t5), AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
    expected = []
    for caption in CAPTIONS:
        ids = network.generate(**tokenizer(f"a: {caption}", return_tensors="pt"), max_new_tokens=4, num_beams=2)
        expected.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    assert len({*expected}) > 1
    assert Seq2Seq(t5, prefix="a: ", max_new_tokens=4, num_beams=2, device="cpu")(CAPTIONS) == expected


def test_its_settings_are_plain_and_leave_the_device_out(t5: str) -> None:
    one, other = (Seq2Seq(t5, device=device).describe() for device in ("cpu", "auto"))
    assert json.loads(json.dumps(one)) == one == other
    assert one["name"] == t5
    assert Seq2Seq(t5, num_beams=1).describe() != one


def test_a_model_that_is_not_there_is_told_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^summariser\.model\.name=\S+: [^\n]*: give a folder or hub id"):
        Seq2Seq(str(tmp_path / "empty")).load()
    with pytest.raises(ValueError, match=r"no device 'nowhere' here: set summariser\.model\.device=auto$"):
        Seq2Seq("any", device="nowhere").load()
