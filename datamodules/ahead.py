"""Reading ahead: the next item is made in a thread while one is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch.utils.data import DataLoader

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, none of them None, each made while the one before is used."""
    with ThreadPoolExecutor(1) as reader:
        items = iter(items)
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


class AheadLoader(DataLoader[Any]):
    """A loader that without workers reads ahead; its samples must draw nothing from the process' random generators."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        return batches if self.num_workers else ahead(batches)
