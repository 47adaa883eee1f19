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
    assert task.applies(sets)
    bare = replace(sets[needs[0]], image={"embedding": sets[needs[0]].image["embedding"]})
    assert not task.applies({**sets, needs[0]: bare})


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
