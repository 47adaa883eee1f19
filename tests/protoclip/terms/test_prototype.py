import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from protoclip.losses import prototype_loss
from protoclip.prototypes import Assignment, PrototypeBank
from protoclip.terms import FeatureKey, Prototype, StepInputs

SIZE, DIM, COUNT = 10, 4, 3
POSITIONS = torch.tensor([4, 9, 0, 2])


def assignment(seed: int, labels: Tensor | None = None) -> Assignment:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, COUNT, (SIZE,), generator=generator) if labels is None else labels
    prototypes, centroids = (0.5 * torch.randn(COUNT, DIM, generator=generator) for _ in range(2))
    return Assignment(drawn, prototypes, centroids, torch.bincount(drawn, minlength=COUNT))


def inputs(image: Assignment, text: Assignment, name: str = "prototype") -> StepInputs:
    bank = PrototypeBank(SIZE, DIM, num_prototypes=COUNT)
    bank.write(2, image, text)
    generator = torch.Generator().manual_seed(9)
    features = {
        FeatureKey(tower, tower, name): F.normalize(torch.randn(4, DIM, generator=generator), dim=1).requires_grad_()
        for tower in ("image", "text")
    }
    scale = torch.tensor(7.0, requires_grad=True)
    return StepInputs(features, {name: scale}, {name: bank}, positions=POSITIONS, block=2)


@pytest.mark.parametrize("temperature", [0.01, 0.5, None])
def test_is_half_of_each_modality(temperature: float | None) -> None:
    image, text = assignment(0), assignment(1)
    given = inputs(image, text)
    total = 0.0
    for side, key in zip((image, text), given.features, strict=True):
        total += prototype_loss(
            given.features[key],
            side.prototypes,
            torch.tensor(7.0),
            side.labels[POSITIONS],
            teacher_centroids=side.centroids,
            target_temperature=temperature,
        ).item()
    assert Prototype(target_temperature=temperature)(given)["loss"].item() == pytest.approx(total / 2, rel=1e-6)


def test_soft_targets_of_the_paper_are_the_default() -> None:
    given = inputs(assignment(0), assignment(1))
    assert torch.equal(Prototype()(given)["loss"], Prototype(target_temperature=0.01)(given)["loss"])


def test_hand_value_of_loss_and_accuracies() -> None:
    labels = torch.zeros(SIZE, dtype=torch.int64)
    labels[[4, 9]] = 1
    prototypes = torch.eye(COUNT, DIM)
    side = Assignment(labels, prototypes, prototypes, torch.bincount(labels, minlength=COUNT))
    given = inputs(side, side)
    rows = torch.eye(DIM)[[1, 0, 0, 0]]  # the second is nearest to another prototype than its label's
    right = torch.eye(DIM)[[1, 1, 0, 0]]
    features = {FeatureKey("image", "image", "prototype"): rows, FeatureKey("text", "text", "prototype"): right}
    results = Prototype(target_temperature=None)(
        StepInputs(features, given.logit_scales, given.banks, POSITIONS, block=2)
    )
    near, far = math.log(1 + 2 * math.exp(-7)), 7 + math.log(1 + 2 * math.exp(-7))
    assert results["loss"].item() == pytest.approx(((3 * near + far) / 4 + near) / 2, rel=1e-5)
    assert results["image_accuracy"].item() == 75.0
    assert results["text_accuracy"].item() == 100.0


@pytest.mark.parametrize("temperature", [0.5, None])
def test_empty_prototypes_as_zero_rows_or_masked(temperature: float | None) -> None:
    labels = torch.arange(SIZE) % 2  # the third cluster is empty
    image, text = assignment(0, labels), assignment(1, labels)
    for side in (image, text):
        side.prototypes[2] = 0.0
    given = inputs(image, text)
    zero = Prototype(target_temperature=temperature)(given)["loss"]
    masked = Prototype(target_temperature=temperature, empty="mask")(given)["loss"]
    total = 0.0
    for side, key in zip((image, text), given.features, strict=True):
        total += prototype_loss(
            given.features[key],
            side.prototypes[:2],
            torch.tensor(7.0),
            labels[POSITIONS],
            teacher_centroids=side.centroids[:2],
            target_temperature=temperature,
        ).item()
    assert masked.item() == pytest.approx(total / 2, rel=1e-6)
    assert zero.item() > masked.item() + 1e-3


def test_gradient_reaches_features_and_scale_alone() -> None:
    given = inputs(assignment(0), assignment(1))
    Prototype()(given)["loss"].backward()
    for leaf in (*given.features.values(), given.logit_scales["prototype"]):
        assert leaf.grad is not None
        assert bool((leaf.grad != 0).any())
    assert not any(value.requires_grad for value in given.banks["prototype"].state_dict().values())


def test_refuses_the_prototypes_of_another_block() -> None:
    given = inputs(assignment(0), assignment(1))
    with pytest.raises(RuntimeError, match="block"):
        Prototype()(StepInputs(given.features, given.logit_scales, given.banks, POSITIONS, block=3))


def test_names_are_bindings() -> None:
    term = Prototype(image="crop", text="summary", head="swav", bank="fine", temperature="warm", weight=0.5)
    keys = [("image", "crop", "swav"), ("text", "summary", "swav")]
    assert [tuple(key) for key in term.required] == keys
    assert (term.temperatures, term.banks, term.weight, term.validates) == (("warm",), ("fine",), 0.5, False)


def test_refuses_another_treatment_of_empty_prototypes() -> None:
    unknown: Any = "drop"
    with pytest.raises(ValueError, match=r"prototype\.empty is zero or mask, not 'drop'"):
        Prototype(empty=unknown)


# Some pairs take no part ---------------------------------------------------------------------------------------------
LABELLED = torch.tensor([0, 3, 5, 9])
"""Positions with labels; of the batch, the rows 1 and 2."""


def partial_inputs(empty: bool = False) -> StepInputs:
    """The inputs of a batch of which half, or nobody, takes part."""
    image, text = assignment(0), assignment(1)
    given = inputs(image, text)
    bank = given.banks["prototype"]
    if empty:
        bank.leave_out(2)
    else:
        image, text = (side._replace(labels=side.labels[LABELLED]) for side in (image, text))
        bank.write(2, image, text, LABELLED)
    return given


@pytest.mark.parametrize("temperature", [0.01, None])
def test_a_partial_bank_averages_the_labelled_rows(temperature: float | None) -> None:
    given = partial_inputs()
    rows, whole = [1, 2], (assignment(0), assignment(1))
    results = Prototype(target_temperature=temperature)(given)
    expected = []
    for side, (key, features), modality in zip(whole, given.features.items(), ("image", "text"), strict=True):
        labels = side.labels[POSITIONS[rows]]
        one_by_one = [
            prototype_loss(
                features[[row]],
                side.prototypes,
                torch.tensor(7.0),
                labels[[place]],
                teacher_centroids=side.centroids,
                target_temperature=temperature,
            ).item()
            for place, row in enumerate(rows)
        ]
        expected.append(sum(one_by_one) / 2)
        hits = (given.features[key][rows] @ side.prototypes.T).argmax(dim=1) == labels
        assert results[f"{modality}_accuracy"].item() == 100 * hits.float().mean().item()
    assert results["loss"].item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    results["loss"].backward()
    for features in given.features.values():
        assert features.grad is not None
        assert [bool(row.any()) for row in features.grad] == [False, True, True, False]


def test_nobody_who_takes_part_is_a_loss_and_a_gradient_of_zero() -> None:
    for given in (partial_inputs(empty=True), replace(partial_inputs(), positions=torch.tensor([1, 2, 4, 6]))):
        results = Prototype()(given)
        assert {name: value.item() for name, value in results.items()} == {
            "loss": 0.0,
            "image_accuracy": 0.0,
            "text_accuracy": 0.0,
        }
        results["loss"].backward()
        for leaf in (*given.features.values(), given.logit_scales["prototype"]):
            assert leaf.grad is not None
            assert not bool(leaf.grad.any())


def test_all_who_take_part_are_a_full_bank() -> None:
    full, part = inputs(assignment(0), assignment(1)), inputs(assignment(0), assignment(1))
    part.banks["prototype"].write(2, assignment(0), assignment(1), torch.arange(SIZE))
    part.banks["prototype"].partial.fill_(True)
    for name, value in Prototype()(full).items():
        assert torch.equal(Prototype()(part)[name], value), name


@pytest.mark.parametrize("temperature", [0.5, None])
def test_prototypes_that_there_are_not_take_no_part(temperature: float | None) -> None:
    few, given = partial_inputs(), partial_inputs()
    bank = PrototypeBank(SIZE, DIM, num_prototypes=COUNT + 5)
    image, text = (side._replace(labels=side.labels[LABELLED]) for side in (assignment(0), assignment(1)))
    bank.write(2, image, text, LABELLED)
    term = Prototype(target_temperature=temperature)
    assert torch.allclose(term(replace(given, banks={"prototype": bank}))["loss"], term(few)["loss"])
