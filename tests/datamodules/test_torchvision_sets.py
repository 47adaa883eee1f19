import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from torchvision import datasets

from datamodules.sources import LabelledSource
from datamodules.torchvision_sets import torchvision_set
from tests.datamodules.test_labelled_folders import write_classes
from tests.datamodules.test_shards import picture

PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
LABELS = [1, 0, 1, 1]


def put(path: Path, content: bytes | str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content or picture(0))


def write_cifar(folder: Path, batches: list[str], meta: str, label: str, names: str) -> None:
    for batch in batches:
        data = PIXELS[:, :32, :32].transpose(0, 3, 1, 2).reshape(4, -1)
        put(folder / batch, pickle.dumps({"data": data, label: LABELS}))
    put(folder / meta, pickle.dumps({names: ["cat", "big_dog"]}))


def write_cifar10(root: Path) -> None:
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    write_cifar(root / "cifar-10-batches-py", batches, "batches.meta", "labels", "label_names")


def write_cifar100(root: Path) -> None:
    write_cifar(root / "cifar-100-python", ["train", "test"], "meta", "fine_labels", "fine_label_names")


def write_stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    for split in ("train", "test"):
        put(folder / f"{split}_X.bin", PIXELS.transpose(0, 3, 2, 1).tobytes())  # each channel by columns
        put(folder / f"{split}_y.bin", (np.array(LABELS, np.uint8) + 1).tobytes())
    put(folder / "unlabeled_X.bin", b"")
    put(folder / "class_names.txt", "cat\nbig_dog\n")


def write_dtd(root: Path) -> None:
    for split in ("train", "val", "test"):
        names = [f"{name}/{split}{number}.png" for number, name in enumerate(("b_c", "a", "b_c", "b_c"))]
        put(root / "dtd" / "dtd" / "labels" / f"{split}1.txt", "\n".join(names) + "\n")
        for name in names:
            put(root / "dtd" / "dtd" / "images" / name)


def write_food101(root: Path) -> None:
    for split in ("train", "test"):
        table = {"a": [f"a/{split}0"], "b_c": [f"b_c/{split}{number}" for number in range(3)]}
        put(root / "food-101" / "meta" / f"{split}.json", json.dumps(table))
        for name in [name for names in table.values() for name in names]:
            put(root / "food-101" / "images" / f"{name}.jpg")


def write_pets(root: Path) -> None:
    for split in ("trainval", "test"):
        rows = [f"{'big_dog' if label else 'Cat'}_{row} {label + 1} 1 1" for row, label in enumerate(LABELS)]
        put(root / "oxford-iiit-pet" / "annotations" / f"{split}.txt", "\n".join(rows) + "\n")
        for row in rows:
            put(root / "oxford-iiit-pet" / "images" / f"{row.split()[0]}.jpg")


def write_flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    put(folder / "jpg" / "image_00001.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([2, 1, 2, 2, 1])})
    splits = {"trnid": [5, 1], "valid": [3, 5], "tstid": [1, 2, 3, 4]}
    scipy.io.savemat(folder / "setid.mat", {name: np.array(rows) for name, rows in splits.items()})
    for row in range(1, 6):
        put(folder / "jpg" / f"image_{row:05}.jpg")


def write_gtsrb(root: Path) -> None:
    folder = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    rows = [{"Filename": f"{row}.ppm", "ClassId": label} for row, label in enumerate(LABELS)]
    for row in rows:
        put(folder / str(row["Filename"]), picture(0, "PPM"))
    with (root / "gtsrb" / "GT-final_test.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["Filename", "ClassId"], delimiter=";")
        table.writeheader()
        table.writerows(rows)


def write_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    rows = np.array([(f"{row}.jpg", label + 1) for row, label in enumerate(LABELS)], [("fname", "O"), ("class", "O")])
    scipy.io.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    names = np.array(["AM General SUV 2000", "Acura TL"], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for row, _ in enumerate(LABELS):
        put(folder / "cars_test" / f"{row}.jpg")


def write_country211(root: Path) -> None:
    write_classes(root / "country211" / "test", AD=1, AE=3)


def write_rendered_sst2(root: Path) -> None:
    for folder in ("train", "valid", "test"):
        write_classes(root / "rendered-sst2" / folder, negative=1, positive=3)


WRITERS: dict[str, Callable[[Path], None]] = {
    "CIFAR10": write_cifar10,
    "CIFAR100": write_cifar100,
    "STL10": write_stl10,
    "DTD": write_dtd,
    "Food101": write_food101,
    "OxfordIIITPet": write_pets,
    "Flowers102": write_flowers102,
    "GTSRB": write_gtsrb,
    "StanfordCars": write_cars,
    "Country211": write_country211,
    "RenderedSST2": write_rendered_sst2,
}
CLASSNAMES = {
    "CIFAR10": ["cat", "big dog"],
    "CIFAR100": ["cat", "big dog"],
    "STL10": ["cat", "big dog"],
    "DTD": ["a", "b c"],
    "Food101": ["a", "b c"],
    "OxfordIIITPet": ["Cat", "Big Dog"],
    "StanfordCars": ["AM General SUV 2000", "Acura TL"],
    "Country211": ["AD", "AE"],
    "RenderedSST2": ["negative", "positive"],
}
"""What torchvision calls the classes; the others have names of their own, or none."""


@pytest.fixture(autouse=True)
def _no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files here are not those that torchvision knows."""
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        made: Any = getattr(datasets, name)
        for files in ("train_list", "test_list"):
            monkeypatch.setattr(made, files, [[file, None] for file, *_ in getattr(made, files)])
    for made in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setitem(made.meta, "md5", None)
    for key in ("label", "setid"):
        monkeypatch.setitem(datasets.Flowers102._file_dict, key, (datasets.Flowers102._file_dict[key][0], None))


def opened(root: Path, dataset: str, *splits: str, classnames: list[str] | None = None) -> LabelledSource:
    if dataset not in CLASSNAMES:
        classnames = ["one", "two"]
    return torchvision_set(dataset, root, splits or ("test",), classnames=classnames, templates=["a {}."])


def labels(source: LabelledSource) -> list[int]:
    return [source.label(index) for index in range(len(source))]


@pytest.mark.parametrize("dataset", WRITERS)
def test_every_set_is_read_as_torchvision_reads_it(tmp_path: Path, dataset: str) -> None:
    WRITERS[dataset](tmp_path / "one")
    source = pickle.loads(pickle.dumps(opened(tmp_path / "one", dataset)))
    assert sorted(labels(source)) == sorted(LABELS)
    made: Any = getattr(datasets, dataset)
    split: dict[str, Any] = {"train": False} if dataset.startswith("CIFAR") else {"split": "test"}
    theirs = made(tmp_path / "one", **split)
    assert labels(source) == [int(theirs[index][1]) for index in range(len(theirs))]
    assert np.array_equal(np.asarray(source.image(2)).transpose(1, 2, 0), np.asarray(theirs[2][0]))
    assert list(source.classnames) == CLASSNAMES.get(dataset, ["one", "two"])
    WRITERS[dataset](tmp_path / "two")
    assert opened(tmp_path / "two", dataset).fingerprint == source.fingerprint
    assert list(opened(tmp_path / "two", dataset, classnames=["one", "two"]).classnames) == ["one", "two"]


@pytest.mark.parametrize(("dataset", "splits"), [("DTD", ("train", "val")), ("Flowers102", ("train", "val"))])
def test_splits_are_joined(tmp_path: Path, dataset: str, splits: tuple[str, ...]) -> None:
    WRITERS[dataset](tmp_path)
    assert len(opened(tmp_path, dataset, *splits)) == 2 * len(opened(tmp_path, dataset, splits[1]))


def test_cifar_has_a_split_for_training(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    train, test = opened(tmp_path, "CIFAR10", "train"), opened(tmp_path, "CIFAR10", "test")
    assert (len(train), len(test)) == (20, 4)
    assert train.fingerprint != test.fingerprint


@pytest.mark.parametrize("dataset", WRITERS)
def test_a_set_that_is_not_there_is_torchvisions_error(tmp_path: Path, dataset: str) -> None:
    with pytest.raises((RuntimeError, OSError)):
        opened(tmp_path, dataset)


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    write_stl10(tmp_path)
    with pytest.raises(ValueError, match=r"^STL10 test: 1 of 3 classes have no picture, such as 'z'") as told:
        opened(tmp_path, "STL10", classnames=["x", "y", "z"])
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"^STL10 test: label 1 is not in 0\.\.0"):
        opened(tmp_path, "STL10", classnames=["x"])
