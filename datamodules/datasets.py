"""Samples of training episodes and of evaluation sets, and how they are collated."""

from collections.abc import Collection, Iterator, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler, default_collate

from datamodules.episodes import SampleKey
from datamodules.region_view import Regions
from datamodules.sources import Corpus, PairSource, PairStream, Pictures, UnreadableSample
from datamodules.text_views import DrawnPair, TextView
from datamodules.token_cache import TokenCache
from datamodules.views import PictureTransform, Tokenize, seeded
from protoclip.seeds import derive_seed
from protoclip.teachers import TeacherCache
from protoclip.terms import teacher_view

PAIRS_KEPT = 2**16
"""Largest corpus whose captions' ids stay in memory, where they are not on the disk: to tokenise one takes as long as
to crop a small picture."""
ATTEMPTS = 20
"""Pairs tried in the place of an unreadable one."""


class EpisodeDataset(Dataset[dict[str, Any]]):
    """Training pairs, addressed by ``SampleKey``: every draw is a function of the key and the seed.

    A pair whose picture or captions cannot be read is replaced by another of the corpus, which takes its place in the
    episode, in both passes. A sample's ``index`` is the pair that is used, ``replaced`` the unreadable one, else -1.

    Args:
        source: the corpus.
        image_views: random transforms by view name.
        text_views: what makes a text, by view name.
        tokenize: captions to ids.
        seed: of all draws.
        region_views: what makes regions, by view name.
        teachers: features of external teachers by name; a sample holds its row.
        tokens: ids of the corpus' captions on the disk.

    Attributes:
        made: names of the views that a sample holds, all at first.

    Raises:
        ValueError: a text view of another one that there is not, or that begins with its own text.
    """

    def __init__(
        self,
        source: Corpus,
        *,
        image_views: Mapping[str, PictureTransform],
        text_views: Mapping[str, TextView],
        tokenize: Tokenize,
        seed: int,
        region_views: Mapping[str, Regions] | None = None,
        teachers: Mapping[str, TeacherCache] | None = None,
        tokens: TokenCache | None = None,
    ) -> None:
        self.corpus = source
        self.image_views = dict(image_views)
        self.text_views = dict(text_views)
        self.region_views = dict(region_views or {})
        self.made = frozenset([*self.image_views, *self.text_views, *self.region_views])
        self._chains = {name: self._chain(name) for name in self.text_views}
        self.tokenize = tokenize
        self.seed = seed
        self.teachers = dict(teachers or {})
        self._tokenized: dict[str, Tensor] = {}
        self._tokens = tokens

    @property
    def source(self) -> PairSource:
        """The corpus, where it is not a stream."""
        assert isinstance(self.corpus, PairSource)
        return self.corpus

    def _chain(self, name: str) -> list[str]:
        """The text views that a view's text goes through, from the drawn caption on."""
        chain = [name]
        while (base := self.text_views[chain[0]].of) is not None:
            if base in chain or base not in self.text_views:
                others = ", ".join(other for other in self.text_views if other not in chain) or "no other"
                raise ValueError(f"the text view {chain[0]!r} cannot be of {base!r}: there is {others}; set its of")
            chain.insert(0, base)
        return chain

    def only(self, views: Collection[str]) -> "EpisodeDataset":
        """The same samples with these views alone.

        Raises:
            ValueError: one that cannot be made of this corpus.
        """
        for name in views:
            for part in self._chains.get(name, ()):
                self.text_views[part].check(self.corpus, self.tokenize)
            if name in self.region_views:
                self.region_views[name].check(self.corpus)
        other = copy(self)
        other.made = frozenset(views)
        return other

    def _token_ids(self, text: str, pair: DrawnPair) -> Tensor:
        """Ids of a text; those of captions are kept, on the disk or, of a small corpus, in memory."""
        if not isinstance(self.corpus, PairSource) or text not in pair.captions:
            return self.tokenize([text])[0]
        if self._tokens is not None:
            row = self.corpus.caption_row(pair.index, pair.captions.index(text))
            if (ids := self._tokens.rows(row)) is None:
                ids = self.tokenize([text])[0]
                self._tokens.keep(row, ids)
            return ids
        if (ids := self._tokenized.get(text)) is None:
            ids = self.tokenize([text])[0]
            if len(self.corpus) <= PAIRS_KEPT:
                self._tokenized[text] = ids
        return ids

    def caption_number(self, key: SampleKey, captions: int) -> int:
        """Which of a pair's so many captions is drawn, the same in both passes over a block."""
        return derive_seed(self.seed, "caption", key.block, key.position) % captions

    def pair(self, key: SampleKey) -> DrawnPair:
        """The pair of a place in an episode.

        Raises:
            UnreadableSample: neither the pair nor any of those tried in its place can be read.
        """
        reason = ""
        for attempt in range(ATTEMPTS + 1):
            drawn = derive_seed(self.seed, "replacement", key.index, attempt) % len(self.source)
            index = drawn if attempt else key.index
            try:
                picture, captions = self.source.image(index), self.source.captions(index)
                number = self.caption_number(key, len(captions))
                return DrawnPair(index, picture, captions, number, captions[number])
            except UnreadableSample as error:
                reason = str(error)
        raise UnreadableSample(f"pair {key.index} and {ATTEMPTS} others tried in its place cannot be read: {reason}")

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        return self.sample(self.pair(key), key)

    def sample(self, pair: DrawnPair, key: SampleKey) -> dict[str, Any]:
        """What training and extraction get of a pair."""
        sample: dict[str, Any] = {
            "index": pair.index,
            "replaced": -1 if pair.index == key.index else key.index,
            "position": key.position,
            "episode": key.episode,
            "block": key.block,
            "label": -1 if isinstance(self.corpus, PairStream) else self.source.label(pair.index),
            "caption": pair.number,
        }
        for name, cache in self.teachers.items():
            sample[teacher_view(name)] = cache.rows([pair.index], [pair.number])[0]
        for name, transform in self.image_views.items():
            if name in self.made:
                with seeded(self._seed(key, name)):
                    sample[name] = transform(pair.picture)
        for name, regions in self.region_views.items():
            if name in self.made:
                sample[name] = regions(self.corpus, pair.index)
        for name in self.text_views:
            if name in self.made:
                sample |= self._text_entries(name, pair, key)
        return sample

    def _text_entries(self, name: str, pair: DrawnPair, key: SampleKey) -> dict[str, Tensor]:
        text = pair.caption
        for part in self._chains[name]:
            text = self.text_views[part].text(text, pair, self.corpus, self._seed(key, part))
        ids = self._token_ids(text, pair)
        return self.text_views[name].entries(name, ids, self.tokenize, self._seed(key, name))

    def _seed(self, key: SampleKey, view: str) -> int:
        return derive_seed(self.seed, key.purpose, key.episode, key.position, view)


class EvaluationDataset(Dataset[dict[str, Any]]):
    """Pictures under the test transform, with all their captions where they have any.

    An unreadable one is an error: metrics over other counts could not be compared.

    Args:
        source: pictures, labelled ones or pairs.
        transform: deterministic.
        tokenize: captions to ids.
    """

    def __init__(self, source: Pictures, *, transform: PictureTransform, tokenize: Tokenize) -> None:
        self.source = source
        self.transform = transform
        self.tokenize = tokenize

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {"index": index, "label": self.source.label(index), "image": self.transform(self.source.image(index))}
        captions = getattr(self.source, "captions", None)
        if captions is not None:
            sample["text"] = self.tokenize(captions(index))
        return sample


class BatchShare(Sampler[list[int]]):
    """Of all batches of a set every ``world``-th, or an empty one: Lightning skips a loader of no batch with its hooks.

    Batches are whole, so that their losses are those of one process.

    Args:
        size: samples of the set.
        batch_size: samples of a batch.
        rank: this process.
        world: number of processes.
        done: numbers of batches to leave out.
    """

    def __init__(
        self, size: int, batch_size: int, rank: int = 0, world: int = 1, done: Collection[int] = frozenset()
    ) -> None:
        batches = enumerate(BatchSampler(range(size), batch_size, drop_last=False))
        self.batches = [batch for number, batch in batches if number not in done][rank::world] or [[]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def collate_evaluation(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack pictures and line up their captions.

    Returns:
        ``image``, ``label`` and ``index`` by picture; where there are captions, ``text`` [captions, length], ``owner``
        (each caption's picture index) and ``first_caption`` (row of each picture's first caption).
    """
    if not samples:  # of a process that a small set has no batch for
        return {}
    texts = [sample.pop("text") for sample in samples if "text" in sample]
    batch: dict[str, Tensor] = default_collate(samples)
    if texts:
        counts = torch.tensor([len(text) for text in texts])
        batch["text"] = torch.cat(texts)
        batch["owner"] = batch["index"].repeat_interleave(counts)
        batch["first_caption"] = counts.cumsum(0) - counts
    return batch
