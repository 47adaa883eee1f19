"""Pairs with their keys, in order, of a corpus and of a stream."""

from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor

from datamodules.scenes import ScenePairs
from datamodules.sources import UnreadableSample
from datamodules.streams import ShardStream
from protoclip.caches import Sample, key_number
from protoclip.cli.keyed_corpus import CorpusPair, corpus_size, keyed_samples
from tests.streams import write_corpus


def first_caption(pair: CorpusPair) -> Sample:
    """The first caption of a pair whose picture can be read, and the picture's height."""
    picture = pair.image()
    return [pair.captions()[0], picture.shape[1] if isinstance(picture, Tensor) else picture.height]


class Gaps(ScenePairs):
    """Scenes of which every third has no picture."""

    def image(self, index: int) -> Tensor:
        if index % 3 == 2:
            raise UnreadableSample(f"{index}: none")
        return super().image(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_come_in_order_from_any_of_them_on(workers: int) -> None:
    source = Gaps("train", 7)
    samples = keyed_samples(source, first_caption, "counting", workers, Console())
    expected = [
        (key_number(str(index)), None if index % 3 == 2 else [source.captions(index)[0], 48]) for index in range(7)
    ]
    assert list(samples(0)) == expected
    assert list(samples(4)) == expected[4:]
    assert corpus_size(source) == 7


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_comes_in_order_too(workers: int, tmp_path: Path) -> None:
    pattern = write_corpus(tmp_path, pairs=11, shards=3, broken=(2, 7))
    source = ShardStream(pattern, lanes=1)
    samples = keyed_samples(source, first_caption, "counting", workers, Console())
    raws = list(source.every(lambda _: None))
    assert [raw.key[-3:] for raw in raws] == [f"{number:03d}" for number in range(11)]
    expected = [(raw.index, None if number in {2, 7} else [raw.captions[0], 40]) for number, raw in enumerate(raws)]
    assert list(samples(0)) == expected
    assert list(samples(5)) == expected[5:]
    assert corpus_size(source) is None
