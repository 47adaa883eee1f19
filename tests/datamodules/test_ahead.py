"""Items that are made while the ones before are used."""

from collections.abc import Iterator
from threading import Event

import pytest
import torch

from datamodules.ahead import AheadLoader, ahead


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = [Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in ahead(items()):
        assert all(event.wait(10) for event in made[: number + 2])
        assert not any(event.is_set() for event in made[number + 2 :])


def test_a_fault_comes_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="the second"):
        next(found)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_the_batches_of_any_other(workers: int) -> None:
    loader = AheadLoader(torch.arange(5), batch_size=2, num_workers=workers)  # type: ignore[arg-type]
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    assert len(loader) == 3
