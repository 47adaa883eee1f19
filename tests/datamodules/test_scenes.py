import multiprocessing
import pickle
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from datamodules.scenes import Scene, SceneObjects, ScenePairs, corpora
from datamodules.scenes.corpora import feature_size
from datamodules.scenes.layout import Thing
from datamodules.scenes.render import renderer
from datamodules.scenes.vocabulary import load_vocabulary

WORDS = load_vocabulary()


def same(first: ScenePairs, second: ScenePairs, index: int) -> bool:
    return (
        torch.equal(first.image(index), second.image(index))
        and first.captions(index) == second.captions(index)
        and first.scene(index) == second.scene(index)
        and torch.equal(first.instance_features(index), second.instance_features(index))
    )


def fill(source: ScenePairs, indices: Iterable[int]) -> None:
    for index in indices:
        source.image(index)


def test_a_sample_depends_on_seed_split_and_index_alone() -> None:
    forward, backward = ScenePairs("train", 40, seed=3), ScenePairs("train", 900, seed=3, cache=False)
    pictures = {index: backward.image(index) for index in reversed(range(40))}
    for index in range(40):
        assert torch.equal(forward.image(index), pictures[index])
        assert same(forward, backward, index)
        assert torch.equal(forward.image(index), pictures[index]), "the cache gives another picture than the renderer"


def test_splits_and_seeds_share_no_scene() -> None:
    def scenes(source: ScenePairs) -> set[tuple[Thing, ...]]:
        return {source.scene(index).objects for index in range(200)}

    sources = [ScenePairs(split, 200) for split in ScenePairs.splits] + [ScenePairs("train", 200, seed=1)]
    for first, second in combinations(sources, 2):
        assert not scenes(first) & scenes(second)
        assert first.fingerprint != second.fingerprint
    assert ScenePairs("train", 200, noise=0.2).fingerprint != sources[0].fingerprint
    assert ScenePairs("train", 200).fingerprint == sources[0].fingerprint


def test_changing_a_cached_picture_does_not_change_the_cache() -> None:
    source = ScenePairs("val", 2)
    before = source.image(0).clone()
    source.image(0).zero_()
    assert torch.equal(source.image(0), before)


def test_forked_workers_fill_one_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ScenePairs("train", 8)
    expected = [ScenePairs("train", 8, cache=False).image(index) for index in range(8)]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=fill, args=(source, range(first, 8, 2))) for first in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # Without a renderer, only the cache can answer.
    monkeypatch.setattr(corpora, "renderer", None)
    assert all(torch.equal(source.image(index), picture) for index, picture in enumerate(expected))


def test_pickling_keeps_the_samples() -> None:
    source = ScenePairs("train", 4)
    source.image(0)
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 4_000, "pictures travel with the pickle"
    assert same(source, copy, 0)
    assert copy.fingerprint == source.fingerprint


def test_pictures_are_uint8_of_the_size_asked_for() -> None:
    for size in (32, 48):
        picture = ScenePairs("val", 1, image_size=size).image(0)
        assert picture.dtype == torch.uint8
        assert picture.shape == (3, size, size)


def test_masks_and_boxes_show_the_visible_parts() -> None:
    source = ScenePairs("train", 150)
    for index in range(150):
        masks, boxes = source.masks(index), source.boxes(index)
        count = len(source.scene(index).objects)
        assert masks.dtype == torch.bool
        assert masks.shape == (count, 48, 48)
        assert boxes.shape == (count, 4)
        assert masks.sum(0).max() <= 1
        assert masks.flatten(1).any(1).all(), f"an object of sample {index} is hidden"
        for mask, box in zip(masks, (48 * boxes).round().int().tolist(), strict=True):
            x0, y0, x1, y1 = box
            inside = mask[y0:y1, x0:x1]
            assert inside.sum() == mask.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_masks_lie_where_the_picture_changes_with_the_object() -> None:
    source, draw = ScenePairs("val", 30, max_objects=1), renderer(48)
    for index in range(30):
        scene = source.scene(index)
        other = (scene.objects[0].colour + 6) % len(WORDS.colours)
        recoloured = replace(scene, objects=(replace(scene.objects[0], colour=other),))
        changed = torch.from_numpy((draw(scene)[0] != draw(recoloured)[0]).any(2))
        assert changed.any()
        assert not (changed & ~source.masks(index)[0]).any()


def test_the_main_object_is_the_largest_and_gives_the_label() -> None:
    source = ScenePairs("train", 300)
    counts = Counter(len(source.scene(index).objects) for index in range(300))
    assert set(counts) == {1, 2, 3}
    for index in range(300):
        objects = source.scene(index).objects
        assert objects[0].size == max(thing.size for thing in objects)
        assert source.label(index) == objects[0].category
        assert len({thing.category for thing in objects}) == len(objects)


def test_instance_features_have_the_documented_size_and_tell_the_colour() -> None:
    source = ScenePairs("val", 20)
    start = len(WORDS.groups)
    for index in range(20):
        features, objects = source.instance_features(index), source.scene(index).objects
        assert features.shape == (len(objects), feature_size())
        colours = features[:, start : start + len(WORDS.colours)].argmax(1)
        assert colours.tolist() == [thing.colour for thing in objects]


def test_regions_are_features_and_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = ScenePairs("val", 4), ScenePairs("val", 4, cache=False)
    for index in range(4):
        regions = source.regions(index)
        assert torch.equal(regions, torch.cat([source.instance_features(index), source.boxes(index)], dim=1))
        assert torch.equal(regions, other.regions(index))
    monkeypatch.setattr(corpora, "renderer", None)  # boxes are looked up, not rendered again
    assert source.regions(3).shape[1] == feature_size() + 4


def test_there_are_enough_categories_with_synonyms_in_groups() -> None:
    source = ScenePairs("val", 1)
    assert source.num_classes == len(source.classnames) == len(set(source.classnames)) >= 64
    assert len(WORDS.groups) >= 8
    assert len(WORDS.colours) >= 10
    assert len(WORDS.textures) >= 6
    assert len(WORDS.backgrounds) >= 8
    assert sum(len(category.names) >= 3 for category in WORDS.categories) > 0.75 * source.num_classes
    names = [name for category in WORDS.categories for name in category.names]
    assert len(set(names)) == len(names), "two categories share a name"


def test_every_category_is_drawn_and_no_individual_is_a_stamp() -> None:
    draw = renderer(48)
    for category in range(len(WORDS.categories)):
        thing = Thing(category, 0, 1, 0, size=0.8, x=0.5, y=0.5, turn=0.0, aspect=1.0, mirrored=False)
        first, second = (draw(Scene(f"stamp/{key}", 0, (thing,)))[1] for key in "ab")
        assert (first > 0).mean() > 0.04, WORDS.classnames[category]
        assert (first != second).mean() > 0.01, WORDS.classnames[category]


def chi_square(categories: list[int], values: list[int], kinds: int) -> tuple[float, int]:
    """Statistic of independence, and its degrees of freedom."""
    table = torch.zeros(len(WORDS.categories), kinds)
    for category, value in zip(categories, values, strict=True):
        table[category, value] += 1
    expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), (len(WORDS.categories) - 1) * (kinds - 1)


def test_only_colour_and_background_hint_at_the_category() -> None:
    source = ScenePairs("train", 6400)
    scenes = [source.scene(index) for index in range(6400)]
    categories = [scene.objects[0].category for scene in scenes]
    usual = [WORDS.categories[category] for category in categories]
    for found, wanted, kinds in (
        ([scene.objects[0].colour for scene in scenes], [c.colour for c in usual], len(WORDS.colours)),
        ([scene.background for scene in scenes], [c.background for c in usual], len(WORDS.backgrounds)),
    ):
        share = sum(a == b for a, b in zip(found, wanted, strict=True)) / len(scenes)
        assert abs(share - (0.6 + 0.4 / kinds)) < 0.03
        others = [(c, a) for c, a, b in zip(categories, found, wanted, strict=True) if a != b]
        assert len({a for _, a in others}) == kinds  # the others are of every kind
    for values, kinds in (
        ([scene.objects[0].texture for scene in scenes], len(WORDS.textures)),
        ([int(scene.objects[0].mirrored) for scene in scenes], 2),
    ):
        statistic, freedom = chi_square(categories, values, kinds)
        assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


def test_labelled_objects_are_balanced_in_every_prefix() -> None:
    source = SceneObjects("train", 500)
    kinds = source.num_classes
    labels = [source.label(index) for index in range(500)]
    for stop in (kinds, 3 * kinds, 500):
        counts = Counter(labels[:stop])
        assert max(counts.values()) - min(counts.get(label, 0) for label in range(kinds)) <= 1
    assert labels[:kinds] != labels[kinds : 2 * kinds]
    assert [source.scene(index).objects[0].category for index in range(80)] == labels[:80]
    assert all(len(source.scene(index).objects) == 1 for index in range(80))
    assert all("{}" in template for template in source.templates)


def test_train_and_test_objects_differ() -> None:
    train, test = SceneObjects("train", 64), SceneObjects("test", 64)
    assert not {train.scene(i).objects for i in range(64)} & {test.scene(i).objects for i in range(64)}


def test_indices_outside_raise() -> None:
    source, labelled = ScenePairs("train", 3), SceneObjects("test", 3)
    for index in (-1, 3):
        for ask in (source.image, source.captions, source.label, source.regions, source.summary, labelled.image):
            with pytest.raises(IndexError, match="outside"):
                ask(index)
        with pytest.raises(IndexError, match="outside"):
            labelled.label(index)


def test_wrong_settings_are_named_in_one_line() -> None:
    with pytest.raises(ValueError, match="unknown split 'test': use one of train, val, retrieval"):
        ScenePairs("test", 3)
    with pytest.raises(ValueError, match="unknown split 'retrieval'"):
        SceneObjects("retrieval", 3)
    with pytest.raises(ValueError, match="size must be at least 1"):
        ScenePairs("train", 0)
    with pytest.raises(ValueError, match=r"noise .* \[0, 1\]"):
        ScenePairs("train", 3, noise=1.5)
    with pytest.raises(ValueError, match="max_objects"):
        ScenePairs("train", 3, max_objects=0)
    with pytest.raises(ValueError, match="image_size"):
        SceneObjects("train", 3, image_size=4)
