"""Easy data augmentation of captions (Wei and Zou, EMNLP 2019), as DeCLIP's second text."""

import string
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from datamodules.sources import Corpus
from datamodules.text_views import DrawnPair, TextView
from datamodules.wordnet import FOLDER, WordNet
from protoclip.ranges import Share


class EDA(TextView):
    """One of three operations, each as likely: a synonym for a word, two words swapped, words deleted.

    A text of one word stays as it is, and so does one without a word that has synonyms where that is the operation.

    Args:
        of: the text view that is changed; None for the drawn caption.
        wordnet: folder of WordNet's database, which knows the synonyms.
        deletion: probability of each word to be deleted; one of them is left at least.
    """

    def __init__(self, of: str | None = None, wordnet: str = FOLDER, deletion: Share = 0.1) -> None:
        self.of = of
        self.wordnet = WordNet(wordnet)
        self.deletion = deletion

    def check(self, source: Corpus, tokenize: Any) -> None:
        """Refuse to go without synonyms."""
        self.wordnet.check()

    def text(self, text: str, pair: DrawnPair, source: Corpus, seed: int) -> str:
        """The changed text."""
        words = text.split()
        if len(words) < 2:
            return text
        draw = Random(seed)
        operations: tuple[Callable[[list[str], Random], list[str]], ...] = (self._replaced, _swapped, self._deleted)
        return " ".join(draw.choice(operations)(words, draw))

    def _replaced(self, words: list[str], draw: Random) -> list[str]:
        """A synonym in every place of one word."""
        names = sorted({_name(word) for word in words} - _stop_words())
        for name in draw.sample(names, len(names)):
            if synonyms := self.wordnet.synonyms(name):
                synonym = draw.choice(synonyms)
                return [word.lower().replace(name, synonym) if _name(word) == name else word for word in words]
        return words

    def _deleted(self, words: list[str], draw: Random) -> list[str]:
        return [word for word in words if draw.random() >= self.deletion] or [draw.choice(words)]


def _swapped(words: list[str], draw: Random) -> list[str]:
    first, second = draw.sample(range(len(words)), 2)
    swapped = list(words)
    swapped[first], swapped[second] = words[second], words[first]
    return swapped


def _name(word: str) -> str:
    """What a word is called in a dictionary."""
    return word.strip(string.punctuation).lower()


@cache
def _stop_words() -> frozenset[str]:
    """Words that no synonym replaces."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # noqa: PLC0415 - takes a second

    words: frozenset[str] = ENGLISH_STOP_WORDS
    return words
