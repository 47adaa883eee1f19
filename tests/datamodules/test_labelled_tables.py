import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from datamodules.labelled_tables import LabelledTable
from tests.datamodules.test_shards import picture

PATHS = ["b.png", "a.png", "c.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(PATHS):
        (tmp_path / name).write_bytes(picture(seed))
    return tmp_path


def write(folder: Path, suffix: str, labels: list[Any]) -> Path:
    rows = [{"path": path, "label": label} for path, label in zip(PATHS, labels, strict=True)]
    file = folder / f"table{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(file)
    else:
        pd.DataFrame(rows).to_csv(file, sep="\t" if suffix == ".tsv" else ",", index=False)
    return file


def read(source: LabelledTable) -> tuple[list[str], list[int]]:
    return list(source.classnames), [source.label(index) for index in range(len(source))]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_labels_are_names_or_numbers(folder: Path, suffix: str) -> None:
    source = LabelledTable(write(folder, suffix, ["dog", "cat", "dog"]))
    assert read(source) == (["cat", "dog"], [1, 0, 1])
    assert source.file(0) == folder / "b.png"
    assert source.image(1).shape == (3, 5, 6)
    numbers = write(folder, suffix, [1, 0, 1])
    assert read(LabelledTable(numbers)) == (["0", "1"], [1, 0, 1])
    assert read(LabelledTable(numbers, classnames=["cat", "dog"])) == (["cat", "dog"], [1, 0, 1])
    assert read(LabelledTable(numbers, classnames=["1", "0"])) == (["1", "0"], [0, 1, 0])  # these are names


def test_other_columns_and_another_folder(folder: Path) -> None:
    (folder / "tables").mkdir()
    file = folder / "tables" / "t.csv"
    file.write_text("file;kind\na.png;x\nb.png;y\n")
    options: dict[str, Any] = {"image_key": "file", "label_key": "kind", "separator": ";", "images_root": folder}
    source = LabelledTable(file, templates=["{}", "a {}"], **options)
    assert (read(source), source.templates) == ((["x", "y"], [0, 1]), ["{}", "a {}"])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (["dog", "cat", "cow"], ["dog", "cat"], r"row 3: label 'cow' is not in classnames: mend one of them$"),
        (["dog", "cat", "cat"], ["cat", "dog", "cat"], r"row 2: 2 classes are called 'cat': give labels as numbers$"),
        (
            [0, 1, 5],
            ["dog", "cat"],
            r"table\.jsonl: row 3: label 5 is not in 0\.\.1: mend it, or give all class names$",
        ),
        ([0, 1, -1], None, r"row 3: label -1 is not in 0\.\.1"),
        ([0, 2, 2], None, r"1 of 3 classes have no picture, such as '1'"),
        ([0, 0, 10**12], None, r"label 1000000000000 is not in 0\.\.3"),
        (["dog", "dog", "dog"], ["dog", "cat"], r"1 of 2 classes have no picture, such as 'cat'"),
        (["dog", None, "dog"], None, r"row 2 lacks a path, or a label that is a text or a whole number: mend it$"),
        ([0, 0.5, 1], None, r"row 1 lacks|row 2 lacks"),
    ],
)
def test_labels_that_do_not_fit(folder: Path, labels: list[Any], names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        LabelledTable(write(folder, ".jsonl", labels), classnames=names)
    assert "\n" not in str(told.value)


def test_a_table_that_cannot_be_used(folder: Path) -> None:
    file = write(folder, ".csv", ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"has no column 'kind', only 'path', 'label': "):
        LabelledTable(file, label_key="kind")
    (folder / "b.png").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 pictures, such as b\.png: bring them back"):
        LabelledTable(file)
