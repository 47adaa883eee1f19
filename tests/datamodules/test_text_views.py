import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from datamodules.sources import PairSource, UnreadableSample
from datamodules.text_views import IGNORED, Caption, DrawnPair, Masked, Summary, TextView
from protoclip.tokenizer import Tokenizer
from tests.datamodules.test_datasets import Photos, spell
from tests.protoclip.test_tokenizer import hf_tokenizer

PHOTOS = Photos([3, 1])
PAIR = DrawnPair(1, torch.zeros(3, 2, 2), ["zero", "one", "two"], 2, "two")
BPE = Tokenizer(77)


@dataclass
class Summed(Photos):
    def summary(self, index: int) -> str:
        return f"summary of {index}"


class Rows:
    """Summaries kept beside a corpus."""

    def serve(self, fingerprint: str | None) -> None:
        if fingerprint != "photos":
            raise ValueError("the summaries are of another corpus: write them anew")

    def row(self, index: int) -> str:
        return f"row {index}"


def text(view: TextView, source: PairSource = PHOTOS, seed: int = 0) -> str:
    return view.text("begun", PAIR, source, seed)


def test_a_caption_is_the_drawn_one_or_one_further() -> None:
    assert [text(Caption(offset)) for offset in range(4)] == ["two", "zero", "one", "two"]
    assert text(TextView()) == "begun"


def test_a_summary_is_the_corpus_own_or_a_row() -> None:
    assert text(Summary(), Summed([1, 1])) == "summary of 1"
    assert text(Summary(Rows())) == "row 1"
    Summary().check(Summed([1]), BPE)
    Summary(Rows()).check(PHOTOS, BPE)
    with pytest.raises(ValueError, match=r"^the corpus has no summaries: write them by protoclip summarise,.*$"):
        Summary().check(PHOTOS, BPE)
    with pytest.raises(ValueError, match="of another corpus"):
        Summary(Rows()).check(Photos([1], fingerprint="others"), BPE)
    refusing = patch.object(Summed, "summary", side_effect=ValueError("no column has summaries: set summary_key"))
    with refusing, pytest.raises(ValueError, match="no column has summaries"):
        Summary().check(Summed([1]), BPE)
    with patch.object(Summed, "summary", side_effect=UnreadableSample("torn: mend it")):
        Summary().check(Summed([1]), BPE)


# Masked tokens -------------------------------------------------------------------------------------------------------
def masked(caption: str, seed: int, view: Masked | None = None, tokenizer: Tokenizer = BPE) -> tuple[list[int], ...]:
    """Ids, corrupted ids and labels of a caption."""
    ids = tokenizer([caption])[0]
    kept = ids.clone()
    entries = (view or Masked()).entries("view", ids, tokenizer, seed)
    assert torch.equal(ids, kept)
    assert list(entries) == ["view", "view_labels"]
    assert all(entry.dtype == torch.int64 and entry.shape == ids.shape for entry in entries.values())
    return ids.tolist(), entries["view"].tolist(), entries["view_labels"].tolist()


@pytest.mark.parametrize("length", [10, 75])
def test_tokens_are_asked_for_and_corrupted_at_their_rates(length: int) -> None:
    fates: Counter[str] = Counter()
    drawn = []
    for seed in range(1500):
        ids, corrupted, labels = masked("dog " * length, seed)
        for before, after, label in zip(ids, corrupted, labels, strict=True):
            if label == IGNORED:
                assert before == after
                continue
            assert label == before == ids[1]  # never start, end or padding
            fates["mask" if after == 49408 else "kept" if after == before else "random"] += 1
            drawn += [after] if after not in {before, 49408} else []
    asked = fates.total()
    rate = 0.15 + 0.85**length / length  # one where none was drawn
    assert asked / (1500 * length) == pytest.approx(rate, abs=0.01)
    for fate, share in (("mask", 0.8), ("random", 0.1), ("kept", 0.1)):
        assert fates[fate] / asked == pytest.approx(share, abs=0.03)
    assert max(drawn) < 49406  # no special token
    assert sum(drawn) / len(drawn) == pytest.approx(49406 / 2, rel=0.15)


def test_at_least_one_token_is_asked_for() -> None:
    asked = {tuple(label != IGNORED for label in masked("a dog", seed)[2][:4]) for seed in range(100)}
    assert asked == {(False, *places, False) for places in ((True, False), (False, True), (True, True))}
    ids, corrupted, labels = masked("", 0)
    assert ids == corrupted
    assert set(labels) == {IGNORED}


def test_masking_is_a_function_of_the_seed() -> None:
    assert masked("a dog runs after a cat", 3) == masked("a dog runs after a cat", 3)
    assert len({str(masked("a dog runs after a cat", seed)) for seed in range(20)}) > 10


def test_all_or_nothing() -> None:
    _, corrupted, labels = masked("a red dog runs", 0, Masked(share=1.0, mask=1.0, random=0.0))
    assert corrupted[:6] == [49406, *[49408] * 4, 49407]
    assert sum(label != IGNORED for label in labels) == 4
    ids, corrupted, _ = masked("a red dog runs", 0, Masked(share=1.0, mask=0.0, random=0.0))
    assert ids == corrupted
    with pytest.raises(ValueError, match=r"mask=0\.8 and random=0\.3: their sum should be 1 or less"):
        Masked(random=0.3)


def test_the_mask_token_of_a_transformers_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer(8, hf_name=hf_tokenizer(tmp_path / "bert"))
    Masked().check(PHOTOS, tokenizer)
    ids, corrupted, _ = masked("a dog runs", 0, Masked(share=1.0, mask=1.0, random=0.0), tokenizer)
    assert ids == [2, 5, 6, 7, 3, 0, 0, 0]
    assert corrupted == [2, 4, 4, 4, 3, 0, 0, 0]
    view = Masked(share=1.0, mask=0.0, random=1.0)
    drawn = {after for seed in range(50) for after in masked("a dog runs", seed, view, tokenizer)[1][1:4]}
    assert drawn == {5, 6, 7}


def test_masking_needs_a_tokenizer_with_a_mask_token() -> None:
    Masked().check(PHOTOS, BPE)
    with pytest.raises(ValueError, match=r"use protoclip\.tokenizer\.Tokenizer"):
        Masked().check(PHOTOS, spell)


def test_views_survive_the_way_to_a_worker() -> None:
    for view in (Caption(1), Masked("text"), Summary(Rows())):
        assert vars(pickle.loads(pickle.dumps(view))).keys() == vars(view).keys()
