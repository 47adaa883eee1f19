import json
import math
from pathlib import Path

import pandas as pd
import pytest

from datamodules.columns import read_numbers

ROWS = [("a.jpg", 0.5, "one"), ("b.jpg", -2, "two"), ("a.jpg", 0.75, "three"), ("c.jpg", "high", "four")]
NAMES = ["path", "similarity", "title"]


def write(file: Path) -> Path:
    if file.suffix == ".parquet":
        pd.DataFrame(ROWS, columns=NAMES).astype({"similarity": str}).to_parquet(file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS))
    else:
        pd.DataFrame(ROWS, columns=NAMES).to_csv(file, index=False, sep="," if file.suffix == ".csv" else "\t")
    return file


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.parquet"])
def test_the_highest_number_of_each_key(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name)
    numbers = read_numbers(file, "path", "similarity")
    assert numbers[["b.jpg", "a.jpg"]].tolist() == [-2, 0.75]
    assert math.isnan(numbers["c.jpg"])
    with pytest.raises(ValueError, match=r"has no column 'similar', only .*: did you mean 'similarity'\?$"):
        read_numbers(file, "path", "similar")


def test_a_separator_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("path|similarity\na.jpg|1.5\n")
    assert read_numbers(file, "path", "similarity", "|").tolist() == [1.5]
