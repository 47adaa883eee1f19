import re

import pytest

from datamodules.scenes import ScenePairs
from datamodules.scenes.layout import place_word, size_word
from datamodules.scenes.vocabulary import load_vocabulary

WORDS = load_vocabulary()


def first_mention(caption: str, category: int) -> int:
    """Position of the category's first name in the caption, or -1."""
    names = "|".join(re.escape(name.lower()) for name in WORDS.categories[category].names)
    found = re.search(rf"(?<![a-z])({names})(?![a-z])", caption.lower())
    return found.start() if found else -1


def test_clean_captions_name_the_main_object_first() -> None:
    source = ScenePairs("train", 400, noise=0.0)
    for index in range(400):
        main, *others = (thing.category for thing in source.scene(index).objects)
        captions = source.captions(index)
        assert len(captions) == 5
        for caption in captions:
            place = first_mention(caption, main)
            assert place >= 0, caption
            # A synonym may hold another category's name: a pine tree is no tree.
            length = max(len(name) for name in WORDS.categories[main].names)
            assert all(not -1 < first_mention(caption, other) < place - length for other in others), caption


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_share_of_wrong_captions_is_as_asked(noise: float) -> None:
    clean, noisy = ScenePairs("train", 800, noise=0.0), ScenePairs("train", 800, noise=noise)
    wrong = sum(a != b for i in range(800) for a, b in zip(clean.captions(i), noisy.captions(i), strict=True))
    assert wrong / 4000 == pytest.approx(noise, abs=0.03)
    summaries = sum(clean.summary(i) != noisy.summary(i) for i in range(800)) / 800
    assert summaries == pytest.approx(noise, abs=0.05)


def test_only_the_training_split_has_wrong_captions() -> None:
    for split in ("val", "retrieval"):
        clean, noisy = ScenePairs(split, 100, noise=0.0), ScenePairs(split, 100, noise=1.0)
        assert all(clean.captions(i) == noisy.captions(i) for i in range(100))
        assert clean.fingerprint == noisy.fingerprint


def test_captions_vary_in_wording_and_leave_things_out() -> None:
    source = ScenePairs("train", 1000, noise=0.0)
    captions = [caption for index in range(1000) for caption in source.captions(index)]
    assert len(set(captions)) > 4_700
    colours = 0
    synonyms = 0
    for index in range(1000):
        main = source.scene(index).objects[0]
        for caption in captions[5 * index : 5 * index + 5]:
            colours += any(word in caption.lower() for word in WORDS.colours[main.colour].words)
            synonyms += WORDS.classnames[main.category] not in caption.lower()
    assert 0.4 < colours / 5000 < 0.8
    assert 0.2 < synonyms / 5000 < 0.6


def test_attributes_are_those_of_the_scene() -> None:
    source = ScenePairs("val", 300, max_objects=1)
    every = {word for look in WORDS.colours for word in look.words}
    for index in range(300):
        scene = source.scene(index)
        main = scene.objects[0]
        right = set(WORDS.colours[main.colour].words)
        for caption in source.captions(index):
            # The phrases of the grammar that hold a colour's name without meaning it.
            text = re.sub(r"blue sky|in the dark|golden hour|kodak gold", "", caption.lower())
            told = {word for word in every if re.search(rf"(?<![a-z-]){word}(?![a-z])", text)}
            assert all(any(word in name for name in right) for word in told), caption
            sizes = {
                size
                for size, words in WORDS.sizes.items()
                if any(f"{word} " in text.split("print")[0] for word in words)
            }
            assert sizes <= {size_word(main.size)}, caption
            places = {place for place, words in WORDS.places.items() if any(word in text for word in words)}
            assert not places or place_word(main.x, main.y) in places, caption


def test_places_and_sizes_have_names_for_every_value() -> None:
    grid = [step / 20 for step in range(21)]
    assert {place_word(x, y) for x in grid for y in grid} == set(WORDS.places)
    assert {size_word(size) for size in grid} == set(WORDS.sizes)


def test_articles_fit_the_next_word() -> None:
    source = ScenePairs("val", 300)
    captions = [caption.lower() for index in range(300) for caption in source.captions(index)]
    assert any(" an " in caption for caption in captions)
    assert not [caption for caption in captions if re.search(r"\ba [aeio]|\ban [^aeiou]", caption)]


def test_summary_names_colour_objects_and_background() -> None:
    source = ScenePairs("val", 50)
    for index in range(50):
        scene, summary = source.scene(index), source.summary(index)
        assert summary.startswith(WORDS.colours[scene.objects[0].colour].name)
        assert all(WORDS.classnames[thing.category] in summary for thing in scene.objects)
        assert WORDS.backgrounds[scene.background].name in summary
