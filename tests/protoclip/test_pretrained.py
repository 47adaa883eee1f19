"""Models of transformers, and what is said where there is none."""

import shutil
from pathlib import Path

import pytest

from protoclip.pretrained import load_pretrained, package_folder
from tests.tiny_bert import save_tiny_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


def test_a_folder_gives_a_tokenizer_and_a_network(bert: str) -> None:
    from transformers import AutoModel, BertModel

    tokenizer, network = load_pretrained(bert, AutoModel, revision=None, option="model")
    assert isinstance(network, BertModel)
    assert len(tokenizer(["a red dog"])["input_ids"][0]) == 5


def test_a_model_of_another_kind_and_one_without_vocabulary_are_told_with_the_option(bert: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForSeq2SeqLM

    with pytest.raises(ValueError, match=r"^some\.name=\S+: Unrecognized [^\n]*: give a folder or hub id of transf"):
        load_pretrained(bert, AutoModelForSeq2SeqLM, revision=None, option="some.name")
    bare = tmp_path / "bare"
    shutil.copytree(bert, bare, ignore=shutil.ignore_patterns("token*", "vocab*"))
    with pytest.raises(ValueError, match=r"^some\.name=\S+ has no vocabulary: put its tokenizer's files beside"):
        load_pretrained(str(bare), AutoModel, revision=None, option="some.name")


def test_a_package_that_is_not_installed_is_told() -> None:
    with pytest.raises(ValueError, match=r"^some\.name=package:no_such/model is not installed: pip install no-such$"):
        package_folder("package:no_such/model", "some.name")
