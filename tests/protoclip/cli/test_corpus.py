"""Pairs in order for the commands that go through a corpus once."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from datamodules.scenes import ScenePairs
from datamodules.sources import PairSource, UnreadableSample
from protoclip.caches import Sample
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import corpus_samples, drawn, section, training_corpus, training_pairs
from protoclip.ranges import PositiveInt
from tests.streams import write_corpus


def numbers(source: PairSource, index: int) -> Sample:
    """The number of a pair; of every third there is none."""
    if index % 3 == 2:
        raise UnreadableSample(f"{index} of {len(source)}: none")
    return [index]


@pytest.mark.parametrize("workers", [0, 1])
def test_pairs_come_in_order_from_any_of_them_on(workers: int) -> None:
    samples = corpus_samples(ScenePairs("train", 7), numbers, "counting", workers, Console())
    assert list(samples(0)) == [[0], [1], None, [3], [4], None, [6]]
    assert list(samples(4)) == [[4], None, [6]]


def test_only_the_given_pairs_come() -> None:
    samples = corpus_samples(ScenePairs("train", 7), numbers, "counting", 0, Console(), pairs=[1, 2, 6])
    assert list(samples(0)) == [[1], None, [6]]
    assert list(samples(2)) == [[6]]


def test_a_part_is_drawn_by_its_seed() -> None:
    parts = [drawn(1000, 30, seed, "--limit") for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert all(list(part) == sorted(set(part)) and len(part) == 30 and part[-1] < 1000 for part in parts)
    assert list(drawn(3, 5, 0, "--limit")) == [0, 1, 2]
    with pytest.raises(ValueError, match="--limit 0 is nothing to read: give 1 or more"):
        drawn(3, 0, 0, "--limit")


def test_the_training_pairs_are_those_of_the_config() -> None:
    config = compose_config(["data.num_pairs=5", "towers.image_size=32"])
    assert training_pairs(config).fingerprint == ScenePairs("train", 5, image_size=32).fingerprint


class Run:
    """A class whose settings are a section."""

    def __init__(self, episodes: PositiveInt, epochs: Any) -> None:
        self.episodes = episodes


def test_a_section_is_built_and_its_mistakes_have_their_option() -> None:
    assert section(Run, "run", compose_config(["run.episodes=3"])).episodes == 3
    with pytest.raises(ValueError, match=r"^run\.episodes=0: should be greater than or equal to 1$"):
        section(Run, "run", compose_config(["run.episodes=0"]))


def test_a_stream_is_refused_where_places_are_asked_for(tmp_path: Path) -> None:
    config = compose_config(["data=stream", f"data.path={write_corpus(tmp_path)}"])
    assert training_corpus(config).fingerprint
    with pytest.raises(ValueError, match="choose data=shards with the same data"):
        training_pairs(config)
