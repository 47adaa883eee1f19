from collections.abc import Sequence
from dataclasses import replace

import pytest

from protoclip.evaluation import (
    KNN,
    Clustering,
    Extracted,
    FewShot,
    LinearProbe,
    PseudoLabels,
    Retrieval,
    SGDProbe,
    Task,
    TokenZeroShot,
    ZeroShot,
)


@pytest.mark.parametrize(
    ("task", "needs"),
    [
        (ZeroShot("objects"), ("objects",)),
        (TokenZeroShot("objects", "words"), ("objects",)),
        (Retrieval("pairs"), ("pairs",)),
        (KNN("objects", "train"), ("objects", "train")),
        (LinearProbe("objects", "train"), ("objects", "train")),
        (SGDProbe("objects", "train"), ("objects", "train")),
        (FewShot("objects", "train"), ("objects", "train")),
        (Clustering("objects"), ("objects",)),
        (PseudoLabels("pairs"), ("pairs",)),
    ],
)
def test_tasks_say_what_they_need(sets: dict[str, Extracted], task: Task, needs: tuple[str, ...]) -> None:
    assert task.needs == needs
    assert task.applies(sets[needs[0]].image)
    assert not task.applies(["pooled"])


@pytest.mark.parametrize(
    ("task", "mend"),
    [
        (ZeroShot("pairs"), "class names"),
        (TokenZeroShot("pairs", "words"), "class names"),
        (Retrieval("objects"), "captions"),
        (PseudoLabels("objects"), "captions"),
        (KNN("objects", None), "KNN on objects needs train"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_told_in_one_line(sets: dict[str, Extracted], task: Task, mend: str) -> None:
    with pytest.raises(ValueError, match=mend) as caught:
        task(sets)
    assert "\n" not in str(caught.value)


def named(sets: dict[str, Extracted], train: Sequence[str], test: Sequence[str]) -> dict[str, Extracted]:
    """The sets with class names."""
    names = {"train": tuple(train), "objects": tuple(test)}
    return {**sets, **{name: replace(sets[name], classnames=given) for name, given in names.items()}}


FITTED = [KNN("objects", "train", k=3), LinearProbe("objects", "train", C=1.0), SGDProbe("objects", "train", epochs=1)]


@pytest.mark.parametrize("task", [*FITTED, FewShot("objects", "train", shots=2, draws=2)])
def test_a_label_means_one_class_in_both_sets(sets: dict[str, Extracted], task: Task) -> None:
    mend = "give both the same classnames=, and pictures of each class"
    with pytest.raises(ValueError, match=f"^class 1 is 'b' in train and 'c' in objects: {mend}$"):
        task(named(sets, "abcd", "acde"))
    with pytest.raises(ValueError, match=f"^class 3 is 'd' in train and missing in objects: {mend}$"):
        task(named(sets, "abcd", "abc"))
    plain = task(sets)
    assert task(named(sets, "abcd", "abcd")) == plain
    assert task(named(sets, "abcd", "")) == plain
