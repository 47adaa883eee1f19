import logging
import socket
from pathlib import Path

import pytest

from datamodules.labelled_files import LabelledFiles
from datamodules.labelled_folders import ClassFolders
from datamodules.labelled_sets import labelled_set
from datamodules.missing import MissingSet
from datamodules.prompts import read_prompts
from datamodules.shards import ShardLabelled
from datamodules.sources import LabelledSource, Pictures
from tests.datamodules.test_labelled_folders import write_classes
from tests.datamodules.test_shards import labelled, write_tar
from tests.datamodules.test_torchvision_sets import write_country211, write_dtd


def names_of(pictures: Pictures) -> list[str]:
    assert isinstance(pictures, LabelledSource)
    return list(pictures.classnames)


def templates_of(pictures: Pictures) -> list[str]:
    assert isinstance(pictures, LabelledSource)
    return list(pictures.templates)


def write_shards(folder: Path, *, names: str | None = "cat\ndog\n", templates: str | None = "a {c}.\nthe {c}.") -> Path:
    """A set as clip-benchmark writes it."""
    (folder / "test").mkdir(parents=True)
    write_tar(folder / "test" / "0.tar", [*labelled("s0000000", 0, 1), *labelled("s0000001", 1, 0)])
    for file, content in (("classnames.txt", names), ("zeroshot_classification_templates.txt", templates)):
        if content is not None:
            (folder / file).write_text(content)
    return folder


@pytest.mark.parametrize("inner", [True, False])
def test_torchvisions_layout_lies_in_the_sets_folder_or_beside_it(tmp_path: Path, inner: bool) -> None:
    write_dtd(tmp_path / "dtd" if inner else tmp_path)
    found = labelled_set("dtd", tmp_path, torchvision="DTD")
    assert isinstance(found, LabelledFiles)
    assert names_of(found) == ["a", "b c"]
    assert templates_of(found) == read_prompts("dtd").templates
    train = labelled_set("dtd", tmp_path, "train", torchvision="DTD", splits=("train", "val"))
    assert (len(found), len(train)) == (4, 8)


def test_clip_benchmarks_layout_brings_names_and_templates(tmp_path: Path) -> None:
    write_shards(tmp_path / "dtd")
    found = labelled_set("dtd", tmp_path, torchvision="DTD")
    assert isinstance(found, ShardLabelled)
    assert ([found.label(index) for index in range(2)], names_of(found)) == ([1, 0], ["cat", "dog"])
    assert templates_of(found) == ["a {}.", "the {}."]
    own = labelled_set("dtd", tmp_path, classnames=["x", "y"], templates="{}")
    assert (names_of(own), templates_of(own)) == (["x", "y"], ["{}"])


def test_an_empty_class_of_shards_is_refused_or_dropped(tmp_path: Path) -> None:
    write_shards(tmp_path / "birdsnap", names="cat\ndog\nfish\n")
    with pytest.raises(ValueError, match=r"test/0\.tar: 1 of 3 classes have no picture, such as 'fish': add pictures"):
        labelled_set("birdsnap", tmp_path)
    assert names_of(labelled_set("birdsnap", tmp_path, empty_classes="drop")) == ["cat", "dog"]


def test_shards_without_names_take_those_of_the_set(tmp_path: Path) -> None:
    write_shards(tmp_path / "rendered_sst2", names=None, templates=None)
    found = labelled_set("rendered_sst2", tmp_path)
    assert (names_of(found), templates_of(found)) == (["negative", "positive"], ["a {} review of a movie."])
    write_shards(tmp_path / "cars", names=None)
    with pytest.raises(ValueError, match=r"cars has shards and no classnames\.txt: put one there"):
        labelled_set("cars", tmp_path)


@pytest.mark.parametrize("name", ["x-test-000.tar.gz", "x-test-000.tar"])
def test_shards_named_by_their_split(tmp_path: Path, name: str) -> None:
    folder = write_shards(tmp_path / "cifar10")
    (folder / "test" / "0.tar").unlink()
    members = [*labelled("a", 0, 1), *labelled("b", 0, 0)]
    write_tar(folder / name, members)
    write_tar(folder / name.replace("test", "train"), [*members, *labelled("c", 0, 0)])
    assert [len(labelled_set("cifar10", tmp_path, split)) for split in ("test", "train")] == [2, 3]


def test_class_folders_are_known_by_name(tmp_path: Path) -> None:
    write_classes(tmp_path / "rendered_sst2" / "test", Positive=2, negative=1)
    found = labelled_set("rendered_sst2", tmp_path)
    assert isinstance(found, ClassFolders)
    assert sorted(found.label(index) for index in range(3)) == [0, 1, 1]


def test_folders_that_are_numbers_need_names(tmp_path: Path) -> None:
    write_classes(tmp_path / "cifar10" / "test", **{"0": 1, "1": 2})
    with pytest.raises(ValueError, match=r"test: its class folders are numbers: give their names as classnames$"):
        labelled_set("cifar10", tmp_path)
    assert names_of(labelled_set("cifar10", tmp_path, classnames=["cat", "dog"])) == ["cat", "dog"]


def test_imagenets_folders_are_wordnet_ids(tmp_path: Path) -> None:
    folders = read_prompts("imagenet").folders
    assert folders is not None
    write_classes(tmp_path / "imagenet" / "val", **dict.fromkeys(folders, 0))
    write_classes(tmp_path / "few", n01440764=1)
    (tmp_path / "imagenet" / "val" / "n01443537" / "x.png").write_bytes(
        (tmp_path / "few" / "n01440764" / "0.png").read_bytes()
    )
    with pytest.raises(ValueError, match="999 of 1000 classes have no picture, such as 'tench'"):
        labelled_set("imagenet", tmp_path, folders=["val"])
    found = labelled_set("imagenet", tmp_path, folders=["val"], empty_classes="drop")
    assert names_of(found) == ["goldfish"]
    write_classes(tmp_path / "imagenet" / "val", cat=1)
    with pytest.raises(ValueError, match="val/cat is none of the classes, n01440764, "):
        labelled_set("imagenet", tmp_path, folders=["val"])


def test_ucf101_needs_all_of_its_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = ["testlist01", "testlist02"]
    write_classes(tmp_path / "ucf101" / lists[0], ApplyEyeMakeup=1, Archery=1)
    with pytest.raises(ValueError, match=r"testlist02 is no folder"):
        labelled_set("ucf101", tmp_path, folders=lists)
    write_classes(tmp_path / "ucf101" / lists[1], ApplyEyeMakeup=2)
    with caplog.at_level(logging.WARNING):
        found = labelled_set("ucf101", tmp_path, folders=lists, expected=4)
    assert (len(found), names_of(found), caplog.text) == (4, ["Apply Eye Makeup", "Archery"], "")


def test_another_number_of_pictures_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shards(tmp_path / "dtd")
    labelled_set("dtd", tmp_path, expected=1880)
    assert [record.getMessage() for record in caplog.records] == [
        "dtd (test) has 2 pictures, not 1880: its figures compare with no published ones"
    ]


def test_a_missing_set_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("nothing is downloaded"))
    found = labelled_set("dtd", tmp_path, torchvision="DTD")
    assert isinstance(found, MissingSet)
    place = tmp_path / "dtd"
    assert found.reason == (
        "put what torchvision's DTD reads, or folders test/CLASS/*.jpg, or shards test/*.tar into "
        f"{place}, or set evaluation.root or PROTOCLIP_SETS"
    )
    assert not place.exists()
    place.mkdir()
    found = labelled_set("dtd", tmp_path, torchvision="DTD")
    assert isinstance(found, MissingSet)
    assert found.reason.endswith("; torchvision says: Dataset not found")


def test_a_split_may_be_missing_alone(tmp_path: Path) -> None:
    write_country211(tmp_path / "country211")
    codes = ["AD", "AE"]
    assert len(labelled_set("country211", tmp_path, torchvision="Country211", classnames=codes)) == 4
    assert isinstance(labelled_set("country211", tmp_path, "train", torchvision="Country211"), MissingSet)
