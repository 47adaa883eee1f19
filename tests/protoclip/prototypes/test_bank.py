"""The bank: final shapes from the start, all state in the checkpoint, and no labels of other pairs."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from protoclip.prototypes import ABSENT, LEFT_OUT, Assignment, PrototypeBank, assign_prototypes
from protoclip.prototypes.bank import prototype_count

SIZE, DIM, COUNT = 12, 4, 3
Source = Literal["cross", "same", "joint"]


def assignment(seed: int, teacher_dim: int = DIM) -> Assignment:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, COUNT, (SIZE,), generator=generator)
    return Assignment(
        labels,
        torch.randn(COUNT, DIM, generator=generator),
        torch.randn(COUNT, teacher_dim, generator=generator),
        torch.bincount(labels, minlength=COUNT),
    )


def bank(source: Source = "cross") -> PrototypeBank:
    return PrototypeBank(SIZE, DIM, num_prototypes=COUNT, source=source)


@pytest.mark.parametrize(("source", "teacher_dim"), [("cross", DIM), ("same", DIM), ("joint", 2 * DIM)])
def test_final_shapes_from_the_start(source: Source, teacher_dim: int) -> None:
    fresh, written = bank(source), bank(source)
    written.write(5, assignment(0, teacher_dim), assignment(1, teacher_dim))
    shapes = [{name: (value.shape, value.dtype) for name, value in b.state_dict().items()} for b in (fresh, written)]
    assert shapes[0] == shapes[1]
    sides = {f"{side}.{name}" for side in ("image", "text") for name in Assignment._fields}
    assert set(shapes[0]) == {"block", "partial", *sides}


def test_state_survives_a_file(tmp_path: Path) -> None:
    written = bank()
    image, text = assignment(0), assignment(1)
    written.write(5, image, text)
    torch.save(written.state_dict(), tmp_path / "bank.pt")
    loaded = bank()
    loaded.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True), strict=True)
    assert int(loaded.block) == 5
    for modality, given in (("image", image), ("text", text)):
        side = loaded.side(modality)
        for name, value in given._asdict().items():
            assert torch.equal(getattr(side, name), value), name
    assert torch.equal(loaded.labels("text", torch.arange(SIZE), 5), text.labels)


def test_labels_are_looked_up_by_position() -> None:
    written = bank()
    image, text = assignment(0), assignment(1)
    written.write(0, image, text)
    positions = torch.tensor([7, 0, 11, 7])
    assert torch.equal(written.labels("image", positions, 0), image.labels[positions])
    assert torch.equal(written.labels("text", positions, 0), text.labels[positions])


def test_write_copies_and_replaces_everything() -> None:
    written = bank()
    first = assignment(0)
    written.write(0, first, first)
    first.labels.fill_(0)
    assert not torch.equal(written.image.labels, first.labels)
    second = assignment(2)
    written.write(1, second, second)
    assert int(written.block) == 1
    for name, value in second._asdict().items():
        assert torch.equal(getattr(written.text, name), value), name


def test_nothing_in_the_bank_is_trained() -> None:
    written = bank()
    written.write(0, assignment(0), assignment(1))
    assert list(written.parameters()) == []
    assert not any(value.requires_grad for value in written.buffers())


def test_a_fresh_bank_has_no_labels() -> None:
    for block in (0, 1):
        with pytest.raises(RuntimeError, match=f"of block -1, the batch is of block {block}"):
            bank().labels("image", torch.tensor([0]), block)


def test_refuses_the_labels_of_another_block() -> None:
    written = bank()
    written.write(3, assignment(0), assignment(1))
    for block in (2, 4):
        with pytest.raises(RuntimeError, match=f"of block 3, the batch is of block {block}"):
            written.labels("text", torch.tensor([0]), block)


def test_refuses_a_position_without_a_label() -> None:
    written = bank()
    image = assignment(0)
    image.labels[4] = -1
    written.write(0, image, assignment(1))
    assert len(written.labels("image", torch.tensor([3, 5]), 0)) == 2
    with pytest.raises(RuntimeError, match="image label in block 0"):
        written.labels("image", torch.tensor([3, 4]), 0)


@pytest.mark.parametrize(
    ("size", "number", "per_prototype", "count"),
    [(200_000, None, 10, 20_000), (32, None, 10, 3), (100, 7, None, 7), (10, 10, None, 10), (10, None, 10, 1)],
)
def test_count(size: int, number: int | None, per_prototype: float | None, count: int) -> None:
    assert prototype_count(size, number, per_prototype) == count


@pytest.mark.parametrize(
    ("number", "per_prototype", "message"),
    [
        (None, None, "either prototype.num_prototypes or prototype.images_per_prototype"),
        (3, 10, "either prototype.num_prototypes or prototype.images_per_prototype"),
        (13, None, "13 prototypes for an episode of 12 pairs"),
        (0, None, "0 prototypes"),
        (None, 100, "0 prototypes"),
    ],
)
def test_refuses_counts_that_do_not_fit(number: int | None, per_prototype: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrototypeBank(SIZE, DIM, num_prototypes=number, images_per_prototype=per_prototype)


# Some pairs take no part ---------------------------------------------------------------------------------------------
PART = torch.tensor([1, 4, 9])


def part_of(whole: Assignment, clusters: int = COUNT) -> Assignment:
    labels = whole.labels[PART] % clusters
    counts = torch.bincount(labels, minlength=clusters)
    return Assignment(labels, whole.prototypes[:clusters], whole.centroids[:clusters], counts)


def test_pairs_that_take_no_part_are_told_from_those_without_a_label() -> None:
    written = bank()
    written.write(0, assignment(0), assignment(1))
    assert not bool(written.partial)
    image, text = part_of(assignment(2)), part_of(assignment(3))
    written.write(1, image, text, PART)
    assert bool(written.partial)
    for modality, given in (("image", image), ("text", text)):
        expected = torch.full((SIZE,), LEFT_OUT)
        expected[PART] = given.labels
        assert torch.equal(written.labels(modality, torch.arange(SIZE), 1), expected)


def test_fewer_prototypes_than_before_leave_absent_ones() -> None:
    written = bank()
    written.write(0, assignment(0), assignment(1))
    image = part_of(assignment(2), 2)
    written.write(1, image, image, PART)
    for name in ("prototypes", "centroids", "counts"):
        buffer = getattr(written.image, name)
        assert torch.equal(buffer[:2], getattr(image, name)), name
        assert (buffer[2:] == (ABSENT if name == "counts" else 0)).all(), name


def test_a_bank_of_all_positions_is_whole_again() -> None:
    one, other = bank(), bank()
    one.write(0, part_of(assignment(2)), part_of(assignment(3)), PART)
    one.write(1, assignment(0), assignment(1), torch.arange(SIZE))
    other.write(1, assignment(0), assignment(1))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert not bool(one.partial)


def test_nobody_takes_part() -> None:
    written = bank()
    written.write(0, assignment(0), assignment(1))
    written.leave_out(1)
    assert bool(written.partial)
    for modality in ("image", "text"):
        assert (written.labels(modality, torch.arange(SIZE), 1) == LEFT_OUT).all()
    with pytest.raises(RuntimeError, match="of block 1, the batch is of block 0"):
        written.labels("image", torch.tensor([0]), 0)


def test_who_takes_part_survives_a_file(tmp_path: Path) -> None:
    written = bank()
    written.write(1, part_of(assignment(2)), part_of(assignment(3)), PART)
    torch.save(written.state_dict(), tmp_path / "bank.pt")
    loaded = bank()
    loaded.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True), strict=True)
    assert bool(loaded.partial)
    assert torch.equal(loaded.labels("text", torch.arange(SIZE), 1), written.labels("text", torch.arange(SIZE), 1))


def test_the_teachers_width_may_be_its_own() -> None:
    written = PrototypeBank(SIZE, DIM, num_prototypes=COUNT, teacher_dim=7)
    given = assignment(0, 7)
    written.write(0, given, given)
    assert torch.equal(written.text.centroids, given.centroids)
    assert written.image.prototypes.shape == (COUNT, DIM)


@pytest.mark.parametrize("source", ["cross", "same", "joint"])
def test_the_sides_by_what_was_clustered(source: Source) -> None:
    image, text = torch.randn(2, SIZE, DIM, generator=torch.Generator().manual_seed(0))
    found, written = assign_prototypes(image, text, COUNT, source=source), bank(source)
    written.write(0, found.image, found.text)
    assert written.clusterings.keys() == found.clusters.keys()
    for modality, clusters in found.clusters.items():
        assert written.clusterings[modality].centroids.equal(clusters.centroids)
        assert written.clusterings[modality].labels.equal(clusters.labels)
