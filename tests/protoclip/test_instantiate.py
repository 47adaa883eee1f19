"""Objects from settings: types are checked before anything is made, and mistakes of a constructor stay its own."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Literal

import pytest

from protoclip.instantiate import SettingsError, check, instantiate

MADE: list[str] = []


class Animal:
    """What a nested setting asks for."""

    def __init__(self, name: str, legs: int = 4) -> None:
        if legs < 0:
            raise ValueError(f"legs={legs}: give 0 or more")
        MADE.append(name)
        self.name, self.legs = name, legs


class Bird(Animal):
    def __init__(self, name: str) -> None:
        super().__init__(name, 2)


class Stone:
    """No animal."""


class Zoo:
    def __init__(
        self,
        size: int,
        *,
        animals: Mapping[str, Animal] | None = None,
        guest: Animal | None = None,
        breed: Callable[[str], Animal] | None = None,
        kind: Literal["open", "closed"] = "open",
    ) -> None:
        self.size, self.animals, self.guest, self.breed, self.kind = size, dict(animals or {}), guest, breed, kind


def node(cls: type, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


SETTINGS: dict[str, Any] = {
    "size": 3,
    "animals": {"first": node(Bird, name="owl"), "second": node(Animal, name="cow")},
    "breed": node(Animal, legs=6),
}


def test_nested_objects_and_functions() -> None:
    before = deepcopy(SETTINGS)
    zoo = instantiate(Zoo, SETTINGS, "zoo")
    assert before == SETTINGS  # and can be used again
    assert {name: (type(animal), animal.name, animal.legs) for name, animal in zoo.animals.items()} == {
        "first": (Bird, "owl", 2),
        "second": (Animal, "cow", 4),
    }
    assert zoo.breed is not None
    ant = zoo.breed("ant")
    assert (ant.name, ant.legs) == ("ant", 6)
    assert (zoo.size, zoo.guest, zoo.kind) == (3, None, "open")
    assert instantiate(Zoo, SETTINGS, "zoo").animals["first"] is not zoo.animals["first"]


def test_the_check_makes_nothing() -> None:
    MADE.clear()
    check(Zoo, SETTINGS, "zoo")
    assert MADE == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": "three"}, "zoo.size"),
        ({"size": None}, "zoo.size"),
        ({}, "zoo.size"),
        ({"size": 3, "colour": "red"}, "colour"),
        ({"size": 3, "kind": "shut"}, "zoo.kind"),
        ({"size": 3, "kind": None}, "zoo.kind"),
        ({"size": 3, "guest": node(Animal, name="cow", legs=None)}, "legs"),
        ({"size": 3, "guest": node(Animal, legs=2)}, "name"),
        ({"size": 3, "guest": node(Animal, name="cow", wings=2)}, "wings"),
        ({"size": 3, "guest": node(Animal, name="cow", legs="two")}, "legs"),
        ({"size": 3, "guest": node(Stone)}, "Stone"),
        ({"size": 3, "animals": {"first": node(Stone)}}, "Stone"),
        ({"size": 3, "guest": {"class_path": "tests.no_such.Animal"}}, "no_such"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_made(settings: dict[str, Any], told: str) -> None:
    MADE.clear()
    with pytest.raises(SettingsError, match=told):
        instantiate(Zoo, {"animals": {"owl": node(Bird, name="owl")}, **settings}, "zoo")
    assert MADE == []


@pytest.mark.parametrize("place", ["guest", "animals"])
def test_a_constructors_own_mistake_arrives_as_it_is(place: str) -> None:
    broken = node(Animal, name="cow", legs=-1)
    with pytest.raises(ValueError, match=r"^legs=-1: give 0 or more$") as caught:
        instantiate(Zoo, {"size": 3, place: broken if place == "guest" else {"cow": broken}}, "zoo")
    assert not isinstance(caught.value, SettingsError)
