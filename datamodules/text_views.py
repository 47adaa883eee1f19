"""Text views: named inputs of the text tower, made from the caption that is drawn for a pair.

A view makes a text, of the drawn caption or of another text view, and may change the ids that the tokenizer gives for
it. Whatever it draws is a function of the seed that it is given.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.sources import Corpus, Picture, UnreadableSample, placed
from protoclip.ranges import NonNegativeInt, Share
from protoclip.tokenizer import Tokenizer

IGNORED = -100
"""Label of a token that is not asked for."""


@dataclass(frozen=True, slots=True)
class DrawnPair:
    """The pair of a place in an episode."""

    index: int
    picture: Picture
    captions: Sequence[str]
    number: int
    """Of the caption that is drawn."""
    caption: str
    """That caption."""


class TextView:
    """Base of all text views: it leaves text and ids as they are, and each view changes the one or the other.

    Attributes:
        of: the text view whose text it begins with; None for the drawn caption.
    """

    of: str | None = None

    def check(self, source: Corpus, tokenize: Any) -> None:
        """Refuse what this view cannot be made from.

        Raises:
            ValueError: in one line, with the mend.
        """

    def text(self, text: str, pair: DrawnPair, source: Corpus, seed: int) -> str:
        """The view's text, from that of the view that it is of."""
        return text

    def entries(self, name: str, ids: Tensor, tokenize: Any, seed: int) -> dict[str, Tensor]:
        """What a sample holds of the view called ``name``, from the ids [length] of its text."""
        return {name: ids}


class Caption(TextView):
    """The drawn caption, or one further in the pair's list, which begins anew at its end.

    Args:
        offset: how many further.
    """

    def __init__(self, offset: NonNegativeInt = 0) -> None:
        self.offset = offset

    def text(self, text: str, pair: DrawnPair, source: Corpus, seed: int) -> str:
        """A caption of the pair."""
        return pair.captions[(pair.number + self.offset) % len(pair.captions)]


class SummaryRows(Protocol):
    """Summaries of a corpus, kept beside it."""

    def serve(self, fingerprint: str | None, /) -> None:
        """Refuse another corpus by a ValueError; None is a stream, whose pairs are asked for by key."""

    def row(self, index: int, /) -> Any:
        """The summary of a pair, a str."""


class Summary(TextView):
    """A summary of the pair's first caption.

    Args:
        rows: what ``protoclip summarise`` wrote; None for a corpus that has summaries of its own.
    """

    def __init__(self, rows: SummaryRows | None = None) -> None:
        self.rows = rows

    def check(self, source: Corpus, tokenize: Any) -> None:
        """Refuse a corpus without summaries, and those of another corpus."""
        if self.rows is not None:
            self.rows.serve(placed(source))
        elif not hasattr(source, "summary"):
            raise ValueError("the corpus has no summaries: write them by protoclip summarise, and add summariser=NAME")
        else:
            with suppress(UnreadableSample):
                source.summary(0)  # a manifest may have them or not

    def text(self, text: str, pair: DrawnPair, source: Corpus, seed: int) -> str:
        """The summary."""
        rows: Any = source
        return str(rows.summary(pair.index) if self.rows is None else self.rows.row(pair.index))


class Masked(TextView):
    """A text with some of its tokens corrupted, to be told from the others (BERT's masked language modelling).

    Beside ``NAME`` a sample holds ``NAME_labels``: the ids that are asked for, -100 elsewhere. At least one is asked
    for where the text has any token; start, end and padding never are.

    Args:
        of: the text view whose text is corrupted; None for the drawn caption.
        share: of the tokens that are asked for.
        mask: share of those that become the mask token.
        random: share of those that become any token of the vocabulary; the others stay as they are.

    Raises:
        ValueError: shares that are more than all.
    """

    def __init__(self, of: str | None = None, share: Share = 0.15, mask: Share = 0.8, random: Share = 0.1) -> None:
        if mask + random > 1:
            raise ValueError(f"a masked view with mask={mask} and random={random}: their sum should be 1 or less")
        self.of = of
        self.share, self.mask, self.random = share, mask, random

    def check(self, source: Corpus, tokenize: Any) -> None:
        """Refuse a tokenizer without a mask token."""
        if not isinstance(tokenize, Tokenizer):
            raise ValueError("a masked view asks the tokenizer for its mask token: use protoclip.tokenizer.Tokenizer")
        assert tokenize.mask_id >= 0

    def entries(self, name: str, ids: Tensor, tokenize: Any, seed: int) -> dict[str, Tensor]:
        """Corrupted ids and labels, int64 [length] each."""
        draw = Random(seed)
        values = ids.tolist()
        places = _content(values, tokenize)
        asked = [place for place in places if draw.random() < self.share] or draw.sample(places, min(1, len(places)))
        labels = torch.full_like(ids, IGNORED)
        labels[asked] = ids[asked]
        for place in asked:
            fate = draw.random()
            if fate < self.mask:
                values[place] = tokenize.mask_id
            elif fate < self.mask + self.random:
                values[place] = _any_id(tokenize, draw)
        return {name: torch.tensor(values), f"{name}_labels": labels}


def _content(values: list[int], tokenize: Tokenizer) -> list[int]:
    """Places before the end of text that hold no special token."""
    end = values.index(tokenize.eot_id) if tokenize.eot_id in values else len(values)
    return [place for place in range(end) if values[place] not in tokenize.special_ids]


def _any_id(tokenize: Tokenizer, draw: Random) -> int:
    while (drawn := draw.randrange(tokenize.vocab_size)) in tokenize.special_ids:
        pass
    return drawn
