from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from datamodules.datasets import EpisodeDataset, EvaluationDataset, collate_evaluation
from datamodules.episodes import EpisodePlan, EpisodeSampler, SampleKey
from datamodules.region_view import Regions
from datamodules.sources import Corpus, PairSource, Pictures, UnreadableSample
from datamodules.text_views import Caption, DrawnPair, TextView
from datamodules.views import Augmentation, evaluation_transform
from protoclip.seeds import derive_seed

LENGTH = 12


@dataclass
class Photos(PairSource):
    """Noise with captions in alphabetical order, as Flickr8k has them; picture i has ``counts[i]`` of them."""

    counts: Sequence[int]
    fingerprint: str = "photos"

    def __len__(self) -> int:
        return len(self.counts)

    def image(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=generator)

    def label(self, index: int) -> int:
        return index % 3

    def captions(self, index: int) -> list[str]:
        return [f"{letter}{index}" for letter in "abcdefgh"[: self.counts[index]]]


@dataclass
class Objects(Pictures):
    """The same pictures without captions."""

    photos: Photos
    fingerprint: str = "objects"

    def __len__(self) -> int:
        return len(self.photos)

    def image(self, index: int) -> Tensor:
        return self.photos.image(index)

    def label(self, index: int) -> int:
        return -1


def spell(captions: Sequence[str]) -> Tensor:
    return torch.tensor([[ord(letter) for letter in caption.ljust(LENGTH)] for caption in captions])


def read(ids: Tensor) -> str:
    return "".join(chr(number) for number in ids.tolist()).strip()


def dataset(photos: Photos | None = None, *, seed: int = 0, texts: Sequence[str] = ("text",)) -> EpisodeDataset:
    views = {"image": Augmentation(flip=0.5)(8), "other": Augmentation(flip=0.5)(8)}
    captions = {name: Caption() for name in texts}
    return EpisodeDataset(photos or Photos([5] * 40), image_views=views, text_views=captions, tokenize=spell, seed=seed)


def caption(samples: EpisodeDataset, key: SampleKey) -> str:
    captions = samples.source.captions(key.index)
    return captions[samples.caption_number(key, len(captions))]


KEY = SampleKey(index=7, position=3, episode=4, block=2, purpose="train")


def test_a_sample_is_its_pair_and_its_place() -> None:
    sample = dataset()[KEY]
    assert {name: sample[name] for name in ("index", "position", "episode", "block", "label")} == {
        "index": 7, "position": 3, "episode": 4, "block": 2, "label": 1,
    }  # fmt: skip
    assert sample["image"].shape == sample["other"].shape == (3, 8, 8)
    assert read(sample["text"]) in Photos([5] * 40).captions(7)
    assert read(sample["text"]) == caption(dataset(), KEY)


def test_the_caption_is_the_same_in_both_passes_and_in_all_episodes_of_a_block() -> None:
    samples = dataset()
    for position in range(30):
        key = replace(KEY, position=position)
        same = {
            read(samples[replace(key, purpose=purpose, episode=episode)]["text"])
            for purpose in ("train", "extract")
            for episode in (4, 5)
        }
        assert len(same) == 1


def test_the_caption_varies_over_positions_blocks_and_seeds() -> None:
    samples = dataset()
    assert len({caption(samples, replace(KEY, position=position)) for position in range(60)}) == 5
    assert len({caption(samples, replace(KEY, block=block)) for block in range(60)}) == 5
    assert len({caption(dataset(seed=seed), KEY) for seed in range(60)}) == 5


def test_every_caption_is_as_likely() -> None:
    samples = dataset(Photos([5] * 100))
    keys = [
        SampleKey(index, position, block, block, "train")
        for block in range(50)
        for position, index in enumerate(range(100))
    ]
    counts = Counter(caption(samples, key)[0] for key in keys)
    assert sorted(counts) == list("abcde")
    assert all(abs(count - 1000) < 120 for count in counts.values())  # a standard deviation is 28


def test_a_pair_may_have_one_caption() -> None:
    samples = dataset(Photos([1, 2, 8]))
    assert read(samples[SampleKey(0, 0, 0, 0, "train")]["text"]) == "a0"
    assert len({caption(samples, SampleKey(2, position, 0, 0, "train")) for position in range(100)}) == 8


def test_all_text_views_are_the_drawn_caption() -> None:
    sample = dataset(texts=("text", "clean"))[KEY]
    assert torch.equal(sample["text"], sample["clean"])
    assert "text" not in dataset(texts=())[KEY]


# Views of text and of regions ----------------------------------------------------------------------------------------
class Counting(TextView):
    """Adds to its text what it was drawn with, and counts its calls."""

    def __init__(self, of: str | None = None) -> None:
        self.of = of
        self.calls = 0

    def check(self, source: Corpus, tokenize: object) -> None:
        if "broken" in source.fingerprint:
            raise ValueError("the corpus is broken: mend it")

    def text(self, text: str, pair: DrawnPair, source: Corpus, seed: int) -> str:
        self.calls += 1
        return f"{text}.{seed % 1000:03d}"


class Labelled(Counting):
    """Gives labels too."""

    def entries(self, name: str, ids: Tensor, tokenize: object, seed: int) -> dict[str, Tensor]:
        return {name: ids, f"{name}_labels": torch.tensor(seed)}


class Boxes(Regions):
    """The pair's number in every box."""

    def __init__(self) -> None:
        super().__init__(boxes=2)
        self.calls = 0

    def check(self, source: Corpus) -> None:
        if "broken" in source.fingerprint:
            raise ValueError("the corpus is broken: mend it")

    def __call__(self, source: Corpus, index: int) -> Tensor:
        self.calls += 1
        return torch.full((2, 3), float(index))


def wide(photos: Photos | None = None) -> EpisodeDataset:
    """A data set of many views."""
    return EpisodeDataset(
        photos or Photos([5] * 40),
        image_views={"image": Augmentation()(8), "other": Augmentation()(8)},
        text_views={"last": Labelled(of="first"), "first": Counting(), "text": Caption(), "text_2": Caption(1)},
        tokenize=spell,
        seed=0,
        region_views={"regions": Boxes()},
    )


def test_a_text_view_may_begin_with_another_one_as_a_sample_has_it() -> None:
    sample = wide()[KEY]
    assert set(sample) > {"image", "other", "last", "last_labels", "first", "text", "text_2", "regions"}
    text, first, last = (read(sample[name]) for name in ("text", "first", "last"))
    assert first.split(".")[0] == text
    assert last.rpartition(".")[0] == first
    seeds = {name: derive_seed(0, "train", 4, 3, name) for name in ("first", "last")}
    assert [int(part) for part in last.split(".")[1:]] == [seeds[name] % 1000 for name in ("first", "last")]
    assert sample["last_labels"] == seeds["last"]
    assert sample["regions"].tolist() == [[7.0] * 3] * 2


def test_text_views_of_both_passes_are_of_one_caption_and_drawn_anew() -> None:
    samples = wide()
    one, other = samples[KEY], samples[replace(KEY, purpose="extract", episode=5)]
    assert read(one["first"]).split(".")[0] == read(other["first"]).split(".")[0]
    assert not torch.equal(one["first"], other["first"])
    assert torch.equal(one["text"], other["text"])
    second = Photos([5] * 40).captions(7)[(int(one["caption"]) + 1) % 5]
    assert read(one["text_2"]) == read(other["text_2"]) == second


def test_only_the_views_asked_for_are_made() -> None:
    samples = wide()
    first, last, regions = samples.text_views["first"], samples.text_views["last"], samples.region_views["regions"]
    assert isinstance(first, Counting)
    assert isinstance(last, Counting)
    assert isinstance(regions, Boxes)
    few = samples.only(("other", "text"))
    views = {"image", "other", "last", "first", "text", "text_2", "regions"}
    assert views & set(few[KEY]) == {"other", "text"}
    assert torch.equal(few[KEY]["other"], samples[KEY]["other"])
    calls = first.calls, last.calls, regions.calls
    few[KEY]
    assert (first.calls, last.calls, regions.calls) == calls == (2, 1, 1)
    assert views & set(few.only(("last",))[KEY]) == {"last"}
    assert (first.calls, last.calls, regions.calls) == (3, 2, 1)


def test_what_cannot_be_made_is_refused_where_it_is_asked_for() -> None:
    samples = wide(Photos([5] * 40, fingerprint="broken"))
    samples.only(("text", "text_2", "image"))
    for view in ("first", "last", "regions"):
        with pytest.raises(ValueError, match="the corpus is broken: mend it"):
            samples.only((view,))


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ({"text": Counting(of="clean")}, "'text' cannot be of 'clean': there is no other; set its of"),
        ({"text": Counting(of="text"), "b": Caption()}, "'text' cannot be of 'text': there is b; set its of"),
        (
            {"a": Counting(of="b"), "b": Counting(of="a"), "c": Caption()},
            "'b' cannot be of 'a': there is c; set its of",
        ),
    ],
)
def test_a_text_view_begins_with_one_that_there_is(views: dict[str, TextView], told: str) -> None:
    with pytest.raises(ValueError, match=f"^the text view {told}$"):
        EpisodeDataset(Photos([1]), image_views={}, text_views=views, tokenize=spell, seed=0)


def test_ids_of_captions_stay_in_memory_and_no_others() -> None:
    seen: list[str] = []

    def tokenize(texts: Sequence[str]) -> Tensor:
        seen.extend(texts)
        return spell(texts)

    samples = wide()
    samples.tokenize = tokenize
    for key in (KEY, replace(KEY, purpose="extract")):
        samples.only(("text", "first"))[key]
    assert len(seen) == 3
    assert sum("." in text for text in seen) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, purpose="extract"),
        replace(KEY, position=4),  # the same pair drawn twice
        replace(KEY, episode=5),
    ],
)
def test_the_augmentation_is_drawn_anew(other: SampleKey) -> None:
    samples = dataset()
    assert not torch.equal(samples[KEY]["image"], samples[other]["image"])


def test_views_of_one_picture_and_seeds_differ() -> None:
    sample = dataset()[KEY]
    assert not torch.equal(sample["image"], sample["other"])
    assert not torch.equal(sample["image"], dataset(seed=1)[KEY]["image"])


def test_a_sample_is_a_function_of_its_key() -> None:
    samples = dataset()
    first = samples[KEY]
    samples[replace(KEY, position=9)]
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002 - the global state must not matter
    before = torch.get_rng_state()
    second = samples[KEY]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first)


@pytest.mark.parametrize("purpose", ["train", "extract"])
def test_workers_give_the_same_samples(purpose: str) -> None:
    plan = EpisodePlan(40, 12)

    def batches(workers: int) -> list[dict[str, Tensor]]:
        sampler = EpisodeSampler(plan, purpose=purpose, batch_size=4, episode=2)
        return list(DataLoader(wide(), sampler=sampler, batch_size=4, num_workers=workers))

    here, there = batches(0), batches(2)
    assert len(here) == len(there) == 3
    for left, right in zip(here, there, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


@dataclass
class Torn(Photos):
    """Photos of which some pictures and some captions cannot be read."""

    pictures: frozenset[int] = frozenset()
    texts: frozenset[int] = frozenset()

    def image(self, index: int) -> Tensor:
        if index in self.pictures:
            raise UnreadableSample(f"picture {index} is torn: mend it")
        return super().image(index)

    def captions(self, index: int) -> list[str]:
        if index in self.texts:
            raise UnreadableSample(f"text {index} is torn: mend it")
        return super().captions(index)


@pytest.mark.parametrize("photos", [Torn([5] * 40, pictures=frozenset({7})), Torn([5] * 40, texts=frozenset({7}))])
@pytest.mark.parametrize("texts", [("text",), ()])
def test_an_unreadable_pair_is_replaced_in_its_place(photos: Torn, texts: Sequence[str]) -> None:
    sample = dataset(photos, texts=texts)[KEY]
    assert sample["replaced"] == 7
    assert sample["index"] not in {7, -1}
    assert (sample["position"], sample["episode"], sample["label"]) == (3, 4, sample["index"] % 3)
    whole = dataset(texts=texts)[replace(KEY, index=sample["index"])]
    assert whole.pop("replaced") == -1
    assert all(torch.equal(torch.as_tensor(sample[name]), torch.as_tensor(whole[name])) for name in whole)


def test_the_replacement_depends_on_pair_and_seed_alone() -> None:
    photos = Torn([5] * 40, pictures=frozenset(range(20)))
    others = [replace(KEY, purpose="extract", episode=5), replace(KEY, position=9), replace(KEY, block=3)]
    assert len({dataset(photos)[key]["index"] for key in (KEY, *others)}) == 1
    assert len({dataset(photos)[replace(KEY, index=index)]["index"] for index in range(20)}) > 5
    assert len({dataset(photos, seed=seed)[KEY]["index"] for seed in range(20)}) > 5
    assert all(dataset(photos)[replace(KEY, index=index)]["index"] >= 20 for index in range(20))


def test_it_gives_up_when_nothing_can_be_read() -> None:
    nothing = dataset(Torn([5] * 40, texts=frozenset(range(40))))
    message = r"^pair 7 and 20 others tried in its place cannot be read: text \d+ is torn: mend it$"
    with pytest.raises(UnreadableSample, match=message):
        nothing[KEY]
    with pytest.raises(UnreadableSample, match="picture 1 is torn"):
        evaluate(Torn([5] * 40, pictures=frozenset({1})))[1]


def evaluate(source: Pictures) -> EvaluationDataset:
    return EvaluationDataset(source, transform=evaluation_transform(8), tokenize=spell)


def test_evaluation_gives_all_captions_under_the_test_transform() -> None:
    photos = Photos([2, 5])
    samples = evaluate(photos)
    assert len(samples) == 2
    sample = samples[1]
    assert [read(ids) for ids in sample["text"]] == photos.captions(1)
    assert torch.equal(sample["image"], evaluation_transform(8)(photos.image(1)))
    assert (sample["index"], sample["label"]) == (1, 1)


def test_collating_lines_up_unequal_counts_of_captions() -> None:
    photos = Photos([2, 1, 4, 1, 3])
    samples = evaluate(photos)
    batch = collate_evaluation([samples[index] for index in (1, 2, 3, 4)])
    assert batch["index"].tolist() == [1, 2, 3, 4]
    assert batch["label"].tolist() == [1, 2, 0, 1]
    assert batch["owner"].tolist() == [1, 2, 2, 2, 2, 3, 4, 4, 4]
    assert batch["first_caption"].tolist() == [0, 1, 5, 6]
    assert [read(ids) for ids in batch["text"]] == ["a1", "a2", "b2", "c2", "d2", "a3", "a4", "b4", "c4"]
    assert [read(ids) for ids in batch["text"][batch["first_caption"]]] == ["a1", "a2", "a3", "a4"]
    assert torch.equal(batch["image"], torch.stack([samples[index]["image"] for index in (1, 2, 3, 4)]))


def test_owners_count_through_the_batches_of_a_set() -> None:
    loader = DataLoader(evaluate(Photos([2, 1, 4, 1, 3])), batch_size=2, collate_fn=collate_evaluation)
    batches = list(loader)
    assert torch.cat([batch["owner"] for batch in batches]).tolist() == [0, 0, 1, 2, 2, 2, 2, 3, 4, 4, 4]
    assert [batch["first_caption"].tolist() for batch in batches] == [[0, 2], [0, 4], [0]]


def test_labelled_pictures_have_no_captions() -> None:
    samples = evaluate(Objects(Photos([1, 1])))
    assert collate_evaluation([]) == {}
    batch = collate_evaluation([samples[0], samples[1]])
    assert set(batch) == {"index", "label", "image"}
    assert batch["label"].tolist() == [-1, -1]


def test_training_samples_collate() -> None:
    samples = dataset()
    batch = default_collate([samples[replace(KEY, position=position)] for position in range(3)])
    assert batch["text"].shape == (3, LENGTH)
    assert batch["position"].tolist() == [0, 1, 2]
