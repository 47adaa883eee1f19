import math
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from datamodules.episodes import EpisodePlan, EpisodeSampler, SampleKey, episode_count

Draw = Literal["independent", "partition"]


def indices(plan: EpisodePlan, block: int) -> list[int]:
    drawn: list[int] = plan.indices(block).tolist()
    return drawn


def sampler(plan: EpisodePlan, purpose: str = "train", batch_size: int = 1, episode: int = 0) -> EpisodeSampler:
    return EpisodeSampler(plan, purpose=purpose, batch_size=batch_size, episode=episode)


@pytest.mark.parametrize("draw", ["independent", "partition"])
def test_plan_is_a_pure_function_of_seed_and_block(draw: Draw) -> None:
    plan = EpisodePlan(100, 30, seed=5, draw=draw)
    forward = [indices(plan, block) for block in range(6)]
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    backward = [indices(EpisodePlan(100, 30, seed=5, draw=draw), block) for block in reversed(range(6))]
    assert forward == backward[::-1]
    assert len({tuple(drawn) for drawn in forward}) == 6
    assert forward != [indices(EpisodePlan(100, 30, seed=6, draw=draw), block) for block in range(6)]


def test_order_is_a_pure_function_of_seed_and_episode() -> None:
    plan = EpisodePlan(100, 30, seed=5, refresh_every=2)
    orders = [plan.order(episode).tolist() for episode in range(6)]
    assert orders[::-1] == [plan.order(episode).tolist() for episode in reversed(range(6))]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert plan.order(0).tolist() != EpisodePlan(100, 30, seed=6, refresh_every=2).order(0).tolist()
    whole = EpisodePlan(30, 30, seed=5, draw="partition")
    assert whole.order(0).tolist() != indices(whole, 0)  # draws of their own


def test_without_replacement_all_are_distinct() -> None:
    plan = EpisodePlan(1000, 400)
    for block in range(5):
        drawn = indices(plan, block)
        assert len(set(drawn)) == 400
        assert set(drawn) <= set(range(1000))
    assert sorted(indices(EpisodePlan(50, 50), 0)) == list(range(50))


def test_with_replacement_an_episode_of_the_corpus_size_sees_63_percent() -> None:
    shares = [len(set(indices(EpisodePlan(20_000, 20_000, replacement=True), block))) / 20_000 for block in range(3)]
    assert shares == pytest.approx([1 - 1 / math.e] * 3, abs=0.01)


def test_with_replacement_an_episode_may_exceed_the_corpus() -> None:
    drawn = indices(EpisodePlan(10, 1000, replacement=True), 0)
    assert len(drawn) == 1000
    assert set(drawn) == set(range(10))


@pytest.mark.parametrize("replacement", [False, True])
def test_every_pair_is_as_likely(replacement: bool) -> None:
    plan = EpisodePlan(20, 10, replacement=replacement)
    counts = Counter(index for block in range(1000) for index in indices(plan, block))
    assert len(counts) == 20
    assert min(counts.values()) > 400  # 500 expected, a standard deviation of 22 at most
    assert max(counts.values()) < 600


def test_a_partition_covers_the_corpus_once_per_pass() -> None:
    plan = EpisodePlan(12, 3, draw="partition")
    passes = [[index for block in range(4 * k, 4 * k + 4) for index in indices(plan, block)] for k in range(4)]
    assert all(sorted(drawn) == list(range(12)) for drawn in passes)
    assert len({tuple(drawn) for drawn in passes}) == 4


def test_a_partition_leaves_another_rest_out_of_each_pass() -> None:
    plan = EpisodePlan(10, 4, draw="partition")
    passes = [indices(plan, 2 * k) + indices(plan, 2 * k + 1) for k in range(20)]
    assert all(len(set(drawn)) == 8 for drawn in passes)
    left_out = Counter(index for drawn in passes for index in set(range(10)) - set(drawn))
    assert sum(left_out.values()) == 40
    assert len(left_out) >= 8


def test_refresh_every_keeps_the_pairs_of_a_block() -> None:
    plan = EpisodePlan(100, 8, refresh_every=3)
    keys = [list(sampler(plan, episode=episode)) for episode in range(6)]
    pairs = [sorted((key.position, key.index) for key in episode) for episode in keys]
    assert pairs[0] == pairs[1] == pairs[2]
    assert pairs[3] == pairs[4] == pairs[5]
    assert pairs[0] != pairs[3]
    assert len({tuple(key.position for key in episode) for episode in keys}) == 6
    assert [episode[0].block for episode in keys] == [0, 0, 0, 1, 1, 1]
    assert [episode[0].episode for episode in keys] == list(range(6))


STRATA = [(12, 1.0), (30, 2.0), (7, 1.0)]


def parts(drawn: list[int]) -> list[list[int]]:
    """Places in each of the strata."""
    return [[i for i in drawn if i < 12], [i - 12 for i in drawn if 12 <= i < 42], [i - 42 for i in drawn if i >= 42]]


@pytest.mark.parametrize("draw", ["independent", "partition"])
def test_a_block_has_its_share_of_each_stratum(draw: Draw) -> None:
    plan = EpisodePlan(49, 15, draw=draw, strata=STRATA)
    assert plan.counts == [4, 7, 4]  # of 3.75, 7.5 and 3.75
    forward = [indices(plan, block) for block in range(12)]
    for drawn in forward:
        assert [len(part) for part in parts(drawn)] == [4, 7, 4]
        assert len(set(drawn)) == 15
        assert drawn != sorted(drawn, key=lambda index: (index >= 12, index >= 42)), "the sources are not mixed"
    again = pickle.loads(pickle.dumps(plan))
    assert forward[::-1] == [indices(again, block) for block in reversed(range(12))]


def test_each_stratum_has_passes_of_its_own() -> None:
    plan = EpisodePlan(49, 15, draw="partition", strata=STRATA)
    blocks = [parts(indices(plan, block)) for block in range(12)]
    first = [[i for block in blocks[start : start + 3] for i in block[0]] for start in range(0, 12, 3)]
    assert all(sorted(drawn) == list(range(12)) for drawn in first)  # three blocks of four are a pass
    second = [[i for block in blocks[start : start + 4] for i in block[1]] for start in range(0, 12, 4)]
    assert all(len(set(drawn)) == 28 for drawn in second)  # four of seven, and two are left out
    assert {*range(7)} == {index for block in blocks for index in block[2]}  # one of four a pass


def test_weights_may_repeat_a_small_source() -> None:
    plan = EpisodePlan(103, 20, replacement=True, strata=[(100, 1), (3, 1)])
    drawn = indices(plan, 0)
    assert plan.counts == [10, 10]
    assert {index for index in drawn if index >= 100} <= {100, 101, 102}
    with pytest.raises(ValueError, match="takes 10 from source 2 of 2, which has 3: lower its weight or"):
        EpisodePlan(103, 20, strata=[(100, 1), (3, 1)])
    with pytest.raises(ValueError, match=r"takes 0 from source 2 of 2, of weight 0\.01: raise its weight or episode"):
        EpisodePlan(103, 20, strata=[(100, 1), (3, 0.01)])


def test_shares_add_up_to_the_episode() -> None:
    for size in (10, 29, 100):
        for weights in ((0.1, 0.2, 0.7), (1, 1, 1), (0.29, 0.3, 0.41)):
            plan = EpisodePlan(3000, size, strata=[(1000, weight) for weight in weights])
            assert sum(plan.counts) == size
    assert EpisodePlan(200, 100, strata=[(100, 0.29), (100, 0.71)]).counts == [29, 71]


def test_a_pass_is_permuted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    permuted: list[str] = []
    original = EpisodePlan._generator

    def counted(plan: EpisodePlan, purpose: str, *numbers: int) -> np.random.Generator:
        permuted.append(purpose)
        return original(plan, purpose, *numbers)

    monkeypatch.setattr(EpisodePlan, "_generator", counted)
    plan = EpisodePlan(100_000, 10, draw="partition")
    drawn = plan.indices(5)
    drawn[:] = -1  # a caller's own
    assert min(indices(plan, 5)) >= 0
    assert len({tuple(indices(plan, block)) for block in range(6)}) == 6
    assert permuted == ["partition"]
    assert len(pickle.dumps(plan)) < 1000
    assert indices(pickle.loads(pickle.dumps(plan)), 5) == indices(plan, 5)


def test_extraction_visits_all_by_position() -> None:
    plan = EpisodePlan(100, 30)
    extract = sampler(plan, "extract", batch_size=8, episode=4)
    assert len(extract) == 30
    drawn = indices(plan, 4)
    assert list(extract) == [SampleKey(drawn[place], place, 4, 4, "extract") for place in range(30)]


def test_training_drops_what_does_not_fill_a_batch() -> None:
    plan = EpisodePlan(100, 30)
    train = sampler(plan, batch_size=8)
    dropped = []
    for episode in range(5):
        train.set_epoch(episode)
        keys = list(train)
        assert len(keys) == len(train) == 24
        drawn = indices(plan, episode)
        assert all(key == SampleKey(drawn[key.position], key.position, episode, episode, "train") for key in keys)
        dropped.append(frozenset(range(30)) - {key.position for key in keys})
    assert all(len(positions) == 6 for positions in dropped)
    assert len(set(dropped)) == 5
    assert len(sampler(plan, batch_size=10)) == 30


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_every_batch(world: int) -> None:
    """Their union is the batch of one process, draws included, and each has a contiguous part."""
    plan = EpisodePlan(100, 30)
    whole = list(sampler(plan, batch_size=8, episode=3))
    ranks = [EpisodeSampler(plan, purpose="train", batch_size=8, episode=3, rank=r, world=world) for r in range(world)]
    local = 8 // world
    shares = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(share) for share in shares] == [24 // world] * world
    for step in range(3):
        batch = [key for share in shares for key in share[step * local : (step + 1) * local]]
        assert batch == whole[step * 8 : (step + 1) * 8]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_extraction_in_order(world: int) -> None:
    plan = EpisodePlan(100, 30)
    ranks = [
        EpisodeSampler(plan, purpose="extract", batch_size=7, episode=3, rank=r, world=world) for r in range(world)
    ]
    shares = [list(rank) for rank in ranks]
    assert [key for share in shares for key in share] == list(sampler(plan, "extract", episode=3))
    assert [len(rank) for rank in ranks] == [len(share) for share in shares]
    assert min(map(len, shares)) >= max(map(len, shares)) - 1


@pytest.mark.parametrize(
    ("chosen", "shares"), [([1, 4, 5, 7, 8], [[1, 4, 5], [7, 8]]), ([6], [[6], []]), ([], [[], []])]
)
def test_some_positions_are_extracted_in_shares(chosen: list[int], shares: list[list[int]]) -> None:
    plan = EpisodePlan(100, 9)
    everything = list(EpisodeSampler(plan, purpose="extract", batch_size=2, episode=3))
    for rank, share in enumerate(shares):
        extract = EpisodeSampler(plan, purpose="extract", batch_size=2, episode=3, rank=rank, world=2)
        extract.chosen = np.array(chosen, dtype=np.int64)
        assert list(extract) == [everything[position] for position in share]
        assert len(extract) == len(share)
        extract.chosen = None
        assert len(extract) == (5, 4)[rank]


def test_set_epoch_leaves_a_running_iteration_alone() -> None:
    train = sampler(EpisodePlan(100, 8))
    iterator = iter(train)
    first = next(iterator)
    train.set_epoch(3)
    assert {first.episode, *(key.episode for key in iterator)} == {0}
    assert {key.episode for key in train} == {3}


def test_a_key_survives_the_way_to_a_worker() -> None:
    key = SampleKey(3, 1, 2, 0, "train")
    assert pickle.loads(pickle.dumps(key)) == key


def test_episode_count() -> None:
    assert episode_count(200_000, 2_500_000, epochs=32) == 400
    assert episode_count(2800, 2800, epochs=60) == 60
    assert episode_count(100, 1000, episodes=7) == 7
    assert episode_count(100, 1000, epochs=0.5) == 5


SORTED: Any = "sorted"
MISTAKES: dict[str, Callable[[], object]] = {
    "episode.size": lambda: EpisodePlan(10, 0),
    "episode.refresh_every": lambda: EpisodePlan(10, 5, refresh_every=0),
    "episode.draw": lambda: EpisodePlan(10, 5, draw=SORTED),
    "episode.replacement=true": lambda: EpisodePlan(10, 11),
    "episode.replacement=false": lambda: EpisodePlan(10, 5, replacement=True, draw="partition"),
    "batch_size to a multiple of 3": lambda: EpisodeSampler(
        EpisodePlan(10, 10), purpose="train", batch_size=8, world=3
    ),
    "batch_size": lambda: sampler(EpisodePlan(10, 5), batch_size=6),
    "run.episodes or run.epochs": lambda: episode_count(10, 10),
    "run.episodes": lambda: episode_count(10, 10, episodes=1, epochs=1),
    "run.epochs": lambda: episode_count(100, 100, epochs=0.1),
    "shorter than one episode": lambda: episode_count(100, 100, episodes=0),
}


@pytest.mark.parametrize("mend", MISTAKES)
def test_mistakes_are_told_in_one_line(mend: str) -> None:
    with pytest.raises(ValueError, match=mend) as caught:
        MISTAKES[mend]()
    assert "\n" not in str(caught.value)
