from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from datamodules.eda import EDA
from datamodules.sources import PairSource
from datamodules.text_views import DrawnPair
from tests.datamodules.test_datasets import Photos
from tests.datamodules.test_wordnet import write_wordnet

PHOTOS: PairSource = Photos([1])
PAIR = DrawnPair(0, torch.zeros(3, 2, 2), ["unused"], 0, "unused")
DRAWS = 3000
TEXT = "The dog, and a DOG chase quick boys at zebras"


@pytest.fixture(scope="module")
def eda(tmp_path_factory: pytest.TempPathFactory) -> EDA:
    return EDA(wordnet=write_wordnet(tmp_path_factory.mktemp("wordnet")))


def changed(eda: EDA, text: str, draws: int = DRAWS) -> list[list[str]]:
    return [eda.text(text, PAIR, PHOTOS, seed).split() for seed in range(draws)]


def operation(words: Sequence[str], text: str) -> str:
    """Which of the three made words of a text."""
    before = text.split()
    if sorted(words) == sorted(before):
        return "swap" if list(words) != before else "nothing"
    left = iter(before)
    return "deletion" if all(word in left for word in words) else "synonym"


def test_each_operation_comes_as_often(eda: EDA) -> None:
    counts = Counter(operation(words, TEXT) for words in changed(eda, TEXT))
    nothing = (1 - 0.1) ** len(TEXT.split()) / 3  # a deletion that deletes none
    expected = {"synonym": 1 / 3, "swap": 1 / 3, "deletion": 1 / 3 - nothing, "nothing": nothing}
    for name, share in expected.items():
        assert counts[name] / DRAWS == pytest.approx(share, abs=0.03), name


def test_a_synonym_takes_every_place_of_one_word_with_its_punctuation(eda: EDA) -> None:
    seen = {" ".join(words) for words in changed(eda, TEXT) if operation(words, TEXT) == "synonym"}
    names = ("cad", "canis familiaris", "chase", "domestic dog")
    expected = {f"The {name}, and a {name} chase quick boys at zebras" for name in names}
    expected |= {"The dog, and a DOG dog quick boys at zebras", "The dog, and a DOG chase fast boys at zebras"}
    assert seen == expected  # of boys and zebras there is none, and the others are too common


def test_a_swap_exchanges_two_words(eda: EDA) -> None:
    before = TEXT.split()
    swaps = [words for words in changed(eda, TEXT) if operation(words, TEXT) == "swap"]
    assert {sum(one != other for one, other in zip(words, before, strict=True)) for words in swaps} == {2}
    moved = Counter(place for words in swaps for place, word in enumerate(words) if word != before[place])
    assert len(moved) == len(before)


def test_each_word_is_deleted_at_its_rate_and_one_is_left(tmp_path: Path) -> None:
    text = " ".join(f"w{place}" for place in range(40))
    found = changed(EDA(wordnet=write_wordnet(tmp_path / "wordnet")), text)
    deleted = [40 - len(words) for words in found if operation(words, text) == "deletion"]
    assert sum(deleted) / len(deleted) == pytest.approx(4 / (1 - 0.9**40), abs=0.25)
    greedy = EDA(wordnet=write_wordnet(tmp_path / "wordnet"), deletion=1.0)
    assert Counter(len(words) for words in changed(greedy, "zebra yak", 300)).keys() == {1, 2}


@pytest.mark.parametrize("text", ["", " ", "dog", " Dog! "])
def test_a_text_of_one_word_or_none_stays_as_it_is(eda: EDA, text: str) -> None:
    assert {eda.text(text, PAIR, PHOTOS, seed) for seed in range(30)} == {text}


def test_words_without_letters_do_no_harm(eda: EDA) -> None:
    assert all(sorted(words) in (["!!", "-"], ["!!"], ["-"]) for words in changed(eda, "!! -", 100))
    assert all(eda.text("\ud800 \x00 犬", PAIR, PHOTOS, seed) for seed in range(30))


def test_a_seed_decides(eda: EDA) -> None:
    assert changed(eda, TEXT, 50) == changed(eda, TEXT, 50)


def test_it_refuses_to_go_without_synonyms(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="synonyms come from WordNet"):
        EDA(wordnet=str(tmp_path)).check(PHOTOS, None)
