import os
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from datamodules.episodes import EpisodePlan
from datamodules.mix import MixedPairs
from datamodules.scenes import ScenePairs
from datamodules.sources import FaultKind, PairSource, Picture
from datamodules.text_views import Summary
from protoclip.cli.build import build_datamodule
from tests.conftest import TINY


class Words(PairSource):
    """Pairs that tell where they come from."""

    def __init__(self, name: str, size: int, faults: Mapping[FaultKind, int] | None = None) -> None:
        self.name, self.size, self.fingerprint = name, size, f"{name}{size}"
        self.faults = faults or {}

    def __len__(self) -> int:
        return self.size

    def key(self, index: int) -> str:
        return f"{self.name}-{index}"

    def image(self, index: int) -> Picture:
        raise AssertionError

    def captions(self, index: int) -> list[str]:
        return [f"{self.name} {index}"]

    def label(self, index: int) -> int:
        return index


class Summarised(Words):
    def summary(self, index: int) -> str:
        return f"short {self.name} {index}"


def mix(**sizes: int) -> MixedPairs:
    return MixedPairs({name: Words(name, size) for name, size in sizes.items()})


def test_pairs_are_those_of_the_sources_in_turn() -> None:
    mixed = pickle.loads(pickle.dumps(mix(a=3, b=1, c=2)))
    captions = [mixed.captions(index) for index in range(len(mixed))]
    assert captions == [["a 0"], ["a 1"], ["a 2"], ["b 0"], ["c 0"], ["c 1"]]
    assert [mixed.key(index) for index in (0, 3, 5)] == ["a:a-0", "b:b-0", "c:c-1"]
    assert [mixed.label(index) for index in (2, 3, 5)] == [2, 0, 1]


def test_pictures_and_summaries_are_those_of_the_sources() -> None:
    scenes = ScenePairs("train", 4)
    mixed = MixedPairs({"a": Summarised("a", 2), "scenes": scenes})
    picture, same = mixed.image(3), scenes.image(1)
    assert picture is not None
    assert (picture == same).all()  # type: ignore[union-attr]
    assert mixed.summary(1) == "short a 1"
    assert mixed.summary(2) == scenes.summary(0)
    Summary().check(mixed, None)


def test_a_source_without_summaries_is_told_before_training() -> None:
    mixed = MixedPairs({"a": Summarised("a", 2), "b": Words("b", 2)})
    with pytest.raises(ValueError, match=r"the source b has no summaries: .* add summariser=NAME"):
        Summary().check(mixed, None)


def test_shares_are_by_size_or_by_weight() -> None:
    sources = {"a": Words("a", 30), "b": Words("b", 10)}
    assert MixedPairs(sources).strata == [(30, 0.75), (10, 0.25)]
    assert MixedPairs(sources, {"b": 3, "a": 1}).strata == [(30, 0.25), (10, 0.75)]


def test_faults_are_summed() -> None:
    sources = {"a": Words("a", 1, {"bad_json": 2, "missing_part": 1}), "b": Words("b", 1, {"bad_json": 3})}
    assert MixedPairs(sources).faults == {"bad_json": 5, "missing_part": 1}


def test_the_fingerprint_is_that_of_names_sources_and_shares() -> None:
    one, other = Words("a", 30), Words("b", 10)
    mixes = [
        MixedPairs({"x": one, "y": other}),
        MixedPairs({"x": one, "z": other}),
        MixedPairs({"y": other, "x": one}),
        MixedPairs({"x": one, "y": one}),
        MixedPairs({"x": one, "y": other}, {"x": 1, "y": 1}),
    ]
    assert len({mixed.fingerprint for mixed in mixes}) == 5
    assert MixedPairs({"x": one, "y": other}, {"x": 6, "y": 2}).fingerprint == mixes[0].fingerprint


def test_the_content_is_also_of_the_times_of_all_files(tmp_path: Path) -> None:
    class Files(Words):
        def file(self, index: int) -> Path:
            return tmp_path / self.name

    mixed = MixedPairs({"x": Files("a", 3), "y": Files("b", 1)})
    seen = [mixed.content]
    for time, name in enumerate("ab"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(time, time))
        seen.append(mixed.content)
    assert len({*seen}) == 3


MISTAKES: dict[str, Callable[[], object]] = {
    "a mix of no source": lambda: MixedPairs({}),
    "data.weights names c, and the sources are a, b": lambda: weighted(a=1, b=1, c=1),
    "data.weights.b=None": lambda: weighted(a=1),
    "data.weights.b=0": lambda: weighted(a=1, b=0),
}


def weighted(**weights: float) -> MixedPairs:
    return MixedPairs({"a": Words("a", 3), "b": Words("b", 3)}, weights)


@pytest.mark.parametrize("told", MISTAKES)
def test_mistakes_are_told_in_one_line(told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        MISTAKES[told]()
    assert "\n" not in str(caught.value)


def test_two_lines_of_yaml_add_a_source() -> None:
    scenes = "_target_:datamodules.scenes.ScenePairs,split:train,image_size:32"
    words = [f"+data.sources.{name}={{{scenes},size:{size}}}" for name, size in (("many", 60), ("few", 20))]
    words += ["method=clip", "data=mix", "data.weights={many:1,few:1}", *(word for word in TINY if "num_" not in word)]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=words)
    mixed: Any = build_datamodule(config).train
    assert mixed.strata == [(60, 0.5), (20, 0.5)]
    plan = EpisodePlan(len(mixed), 32, strata=mixed.strata)
    drawn = Counter(mixed.key(index).split(":")[0] for index in plan.indices(0).tolist())
    assert drawn == {"many": 16, "few": 16}
