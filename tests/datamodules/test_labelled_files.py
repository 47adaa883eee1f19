import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from datamodules.labelled_files import LabelledFiles
from datamodules.sources import UnreadableSample
from tests.datamodules.test_shards import picture

NAMES = ["cat", "dog"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "deep").mkdir(parents=True)
    for seed, name in enumerate(("b.png", "deep/a.png", "c.png")):
        (root / name).write_bytes(picture(seed))
    return root


def files(root: Path, labels: tuple[int, ...] = (1, 0, 1), names: list[str] | None = None) -> LabelledFiles:
    paths = ["b.png", "deep/a.png", "c.png"]
    return LabelledFiles(root, paths, labels, classnames=names or NAMES, templates="a {}.")


def test_pictures_and_labels_stay_in_order(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(files(folder)))
    assert [source.label(index) for index in range(len(source))] == [1, 0, 1]
    assert (source.classnames, source.templates) == (NAMES, ["a {}."])
    assert source.file(1) == folder / "deep" / "a.png"
    assert np.asarray(source.image(0)).shape == (3, 5, 6)


def test_the_fingerprint_is_of_paths_sizes_labels_and_names(folder: Path) -> None:
    seen = [
        files(folder).fingerprint,
        files(folder, (1, 0, 0)).fingerprint,
        files(folder, names=["a", "b"]).fingerprint,
    ]
    moved = folder.rename(folder.with_name("moved"))
    assert files(moved).fingerprint == seen[0]
    (moved / "c.png").write_bytes(b"other")
    seen.append(files(moved).fingerprint)
    assert len({*seen}) == 4


def test_the_content_is_also_of_the_times_of_the_files(folder: Path) -> None:
    source = files(folder)
    seen = {source.content}
    os.utime(folder / "c.png", ns=(1, 1))
    assert source.fingerprint == files(folder).fingerprint
    seen |= {files(folder).content, files(folder, (1, 0, 0)).content}
    assert len(seen) == 3
    (folder / "c.png").unlink()
    assert source.content not in seen


def test_what_does_not_fit_is_told_in_one_line(folder: Path) -> None:
    for labels, message in (
        ((0, 1, 2), r"label 2 is not in 0\.\.1: mend the labels"),
        ((0, 1, -1), r"label -1 is not in 0\.\.1: mend the labels"),
        ((0, 0, 0), r"1 of 2 classes have no picture, such as 'dog': add pictures"),
    ):
        with pytest.raises(ValueError, match=message) as told:
            files(folder, labels)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="holds no picture of a class"):
        LabelledFiles(folder, [], [], classnames=NAMES, templates="a {}.")
    source = files(folder)
    (folder / "b.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableSample, match=r"b\.png: not a readable picture"):
        source.image(0)
    (folder / "c.png").unlink()
    with pytest.raises(UnreadableSample, match=r"cannot read .*c\.png .*: bring it back$"):
        source.image(2)
    with pytest.raises(ValueError, match=r"lacks 1 of 3 pictures, such as c\.png: bring them back"):
        files(folder)
