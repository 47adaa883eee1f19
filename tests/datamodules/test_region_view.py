from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.region_view import Regions
from datamodules.scenes import ScenePairs
from datamodules.scenes.corpora import feature_size
from tests.datamodules.test_datasets import Photos


@dataclass
class Boxed(Photos):
    """A corpus with regions of its own: pair i has i of them."""

    def regions(self, index: int) -> Tensor:
        return torch.full((index, 3), index + 1.0)


class Rows:
    """Regions kept beside a corpus, read-only as a memory map is."""

    dim = 3
    table = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    table.flags.writeable = False

    def serve(self, fingerprint: str | None) -> None:
        if fingerprint != "photos":
            raise ValueError("the regions are of another corpus: write them anew")

    def row(self, index: int) -> np.ndarray:
        row: np.ndarray = self.table[index]
        return row


def test_boxes_that_are_not_there_are_zero() -> None:
    view, source = Regions(boxes=4), Boxed([1] * 6)
    for index in range(6):
        regions = view(source, index)
        assert regions.shape == (4, 3)
        assert regions.dtype == torch.float32
        assert (regions != 0).all(1).tolist() == [place < index for place in range(4)]
        assert set(regions.flatten().tolist()) <= {0.0, index + 1.0}
    assert view.dim(source) == 3


@pytest.mark.filterwarnings("error")
def test_rows_beside_the_corpus_come_first() -> None:
    rows = Rows()
    view, source = Regions(rows, boxes=10), Boxed([1] * 2)
    assert view(source, 1)[:4].tolist() == rows.table[1].tolist()
    assert not view(source, 1)[4:].any()
    assert Regions(rows, boxes=2)(source, 0).tolist() == rows.table[0, :2].tolist()
    assert view.dim(source) == 3
    view(source, 0).zero_()
    assert rows.table.any()


def test_scenes_have_regions() -> None:
    source, view = ScenePairs("train", 4), Regions()
    view.check(source)
    dim = view.dim(source)
    assert dim == feature_size() + 4
    for index in range(4):
        regions, count = view(source, index), len(source.scene(index).objects)
        assert regions.shape == (10, dim)
        assert torch.equal(regions[:count, :-4], source.instance_features(index))
        assert torch.equal(regions[:count, -4:], source.boxes(index))
        assert not regions[count:].any()
        assert torch.equal(regions, view(source, index))


def test_a_corpus_without_regions_and_those_of_another_are_refused() -> None:
    Regions(Rows()).check(Photos([1]))
    with pytest.raises(ValueError, match=r"^the corpus has no regions: write them by protoclip regions,.*$"):
        Regions().check(Photos([1]))
    with pytest.raises(ValueError, match="of another corpus"):
        Regions(Rows()).check(Photos([1], fingerprint="others"))
