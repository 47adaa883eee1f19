import logging
from pathlib import Path
from typing import Any

import pytest

from datamodules.labelled_folders import ClassFolders
from tests.datamodules.test_shards import picture


def write_classes(root: Path, **pictures: int) -> Path:
    """A folder of each class with so many pictures."""
    for name, number in pictures.items():
        (root / name).mkdir(parents=True)
        for seed in range(number):
            (root / name / f"{seed}.png").write_bytes(picture(seed))
    return root


def labels(source: ClassFolders) -> list[int]:
    return [source.label(index) for index in range(len(source))]


def test_two_lines_make_a_set_of_any_folder(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "set", red_dog=2, BigCat=1)
    (root / "red_dog" / "deep").mkdir()
    (root / "red_dog" / "deep" / "x.PNG").write_bytes(picture(9))
    for ignored in ("red_dog/.hidden.png", "red_dog/notes.txt", "top.png"):
        (root / ignored).write_bytes(picture(3))
    (root / ".cache").mkdir()
    source = ClassFolders(root)
    assert (source.classnames, source.templates) == (["Big Cat", "red dog"], ["a photo of a {}."])
    assert labels(source) == [0, 1, 1, 1]
    assert {str(source.file(index).relative_to(root)) for index in range(4)} == {
        "BigCat/0.png",
        "red_dog/0.png",
        "red_dog/1.png",
        "red_dog/deep/x.PNG",
    }
    assert source.fingerprint == ClassFolders(root.rename(tmp_path / "moved")).fingerprint


def test_names_that_folders_have_may_be_in_any_order(tmp_path: Path) -> None:
    root = write_classes(tmp_path, american_bulldog=1, Bengal=2, pug=3)
    source = ClassFolders(root, classnames=["Pug", "American Bulldog", "bengal"])
    assert [labels(source).count(label) for label in range(3)] == [3, 1, 2]
    (tmp_path / "names.txt").write_text("eins\nzwei\ndrei\n")
    source = ClassFolders(root, classnames=tmp_path / "names.txt")  # sorted: Bengal, american_bulldog, pug
    assert [labels(source).count(label) for label in range(3)] == [2, 1, 3]


def test_numbers_are_in_their_order(tmp_path: Path) -> None:
    root = write_classes(tmp_path, **{"2": 1, "10": 2, "1": 3})
    source = ClassFolders(root, classnames=["one", "two", "ten"])
    assert [labels(source).count(label) for label in range(3)] == [3, 1, 2]


def test_several_folders_are_one_set(tmp_path: Path) -> None:
    roots = [write_classes(tmp_path / "one", a=1, b=1), write_classes(tmp_path / "two", b=2)]
    source = ClassFolders(roots)
    assert sorted(labels(source)) == [0, 1, 1, 1]
    assert {source.file(index).parts[-3] for index in range(4)} == {"one", "two"}


@pytest.mark.parametrize("place", [".", "classes"])
def test_a_folder_may_be_given_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    write_classes(tmp_path / place, a=1, b=1)
    monkeypatch.chdir(tmp_path)
    assert ClassFolders(place).image(1).shape == (3, 5, 6)


def test_an_empty_class_is_refused_or_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_classes(tmp_path, a=1, b=0, c=2)
    with pytest.raises(ValueError, match="1 of 3 classes have no picture, such as 'b': add pictures"):
        ClassFolders(root)
    with caplog.at_level(logging.WARNING):
        source = ClassFolders(root, empty_classes="drop")
    assert (source.classnames, labels(source)) == (["a", "c"], [0, 1, 1])
    assert "1 classes without any picture are left out" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classnames": ["a"]}, r"/b is none of the classes, a, \.\.\.: mend names or folders$"),
        ({"classnames": ["a", "x"]}, r"/b is none of the classes"),
        ({"classnames": ["x", "y", "z"]}, r"has 2 class folders, classnames has 3: give one each$"),
        ({"folders": ["b"]}, r"/a is none of the classes"),
        ({"folders": ["b", "a", "c"]}, r"no picture, such as 'c'"),
        ({"templates": "no place"}, r"give prompts with one"),
    ],
)
def test_names_that_do_not_fit_the_folders(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    root = write_classes(tmp_path, a=1, b=1)
    with pytest.raises(ValueError, match=message) as told:
        ClassFolders(root, **options)
    assert "\n" not in str(told.value)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none is no folder: give the folder of the class folders$"):
        ClassFolders(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no folder of a class: put pictures into .*/CLASS/\*\.jpg$"):
        ClassFolders(tmp_path)
