"""Summaries on the disk."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules.summary_cache import SummaryCache, make_summaries
from protoclip.caches import Numbered, Sample, key_number, making
from protoclip.summarisers import Lead, Seq2Seq
from tests.dying import content, dies_at
from tests.tiny_t5 import save_tiny_t5

CAPTIONS: list[Sample] = [["a red dog"], ["the blue\nsky  häuser"], None, ["¡olé!"], ["a cat in the house"]]


def make(folder: Path, summariser: Any = None, captions: Sequence[Sample] = CAPTIONS, size: int = 2) -> bool:
    """Summarise captions in memory, by the first two words where nothing else is asked for."""

    def samples(start: int) -> Iterator[Numbered]:
        for number in range(start, len(captions)):
            yield key_number(str(number)), captions[number]

    shortest = summariser or Lead(2)
    return make_summaries(str(folder), shortest, samples, corpus="corpus", pairs=len(captions), batch_size=size)


def test_rows_are_the_summaries_of_their_pairs(tmp_path: Path) -> None:
    assert make(tmp_path)
    cache = SummaryCache(str(tmp_path))
    cache.check("corpus")
    assert [cache.row(index) for index in (4, 1, 2, 3, 0)] == ["a cat", "the blue", "", "¡olé!", "a red"]
    assert (tmp_path / "summaries.txt").read_text(encoding="utf-8") == "a red\nthe blue\n\n¡olé!\na cat\n"
    facts = json.loads((tmp_path / "summaries.json").read_text())
    assert facts["summariser"] == {"library": None, "name": "lead", "words": 2}
    assert (facts["pairs"], facts["unreadable"], facts["corpus"]) == (5, 1, "corpus")
    assert set(content(tmp_path)) == {"summaries.txt", "summaries.json", "bounds.npy", "keys.npy"}
    assert not make(tmp_path)


class Silent(Lead):
    """Says nothing of some captions, and several lines of others."""

    def __call__(self, captions: Sequence[str]) -> list[str]:
        return [" " if "dog" in caption else "one\n\ntwo " for caption in captions]


def test_a_summary_is_one_line_and_never_empty(tmp_path: Path) -> None:
    make(tmp_path, Silent())
    cache = SummaryCache(str(tmp_path))
    assert [cache.row(index) for index in (0, 1)] == ["a red dog", "one two"]


def test_another_corpus_and_lost_bytes_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=r"of another corpus: choose another folder by summariser\.folder=DIR, or rem"):
        SummaryCache(str(tmp_path)).check("another")
    SummaryCache(str(tmp_path), Lead(2)).check("corpus")
    with pytest.raises(ValueError, match=r"is made with summariser\.words=2 instead of 3: choose another folder"):
        SummaryCache(str(tmp_path), Lead(3)).check("corpus")
    (tmp_path / "summaries.txt").write_bytes(b"a red\n")
    with pytest.raises(ValueError, match=r"\(summaries\.txt is not of \d+ bytes\): remove it and run protoclip summar"):
        SummaryCache(str(tmp_path)).check("corpus")
    with pytest.raises(ValueError, match=r"is made with summariser\.words=2 instead of 3: choose another folder"):
        make(tmp_path, Lead(3))


def test_killed_in_the_middle_a_model_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "COMMIT_SECONDS", 0.0)
    model = Seq2Seq(save_tiny_t5(tmp_path / "t5"), max_new_tokens=4, device="cpu")
    make(tmp_path / "whole", model)
    killed = tmp_path / "killed"
    assert dies_at(1, Seq2Seq, "__call__", partial(make, killed, model))
    assert not (killed / "summaries.json").exists()
    with pytest.raises(ValueError, match="is not finished: run protoclip summarise"):
        SummaryCache(str(killed)).check("corpus")
    assert make(killed, model)
    assert content(killed) == content(tmp_path / "whole")
