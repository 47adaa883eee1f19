import json
from pathlib import Path

import pytest

from datamodules.missing import MissingSet
from datamodules.pair_sets import pair_set
from datamodules.sources import PairSource, Pictures
from tests.datamodules.test_coco import CAPTIONS, IMAGES
from tests.datamodules.test_karpathy import write_karpathy
from tests.datamodules.test_shards import pair, picture, write_tar


def captions(pictures: Pictures) -> list[list[str]]:
    assert isinstance(pictures, PairSource)
    return [list(pictures.captions(index)) for index in range(len(pictures))]


def write_table(file: Path, images: Path) -> None:
    """COCO's annotations and pictures."""
    for folder in (file.parent, images):
        folder.mkdir(parents=True, exist_ok=True)
    for seed, image in enumerate(IMAGES):
        (images / str(image["file_name"])).write_bytes(picture(seed))
    rows = [{"id": row, "image_id": image, "caption": text} for row, (image, text) in enumerate(CAPTIONS)]
    file.write_text(json.dumps({"images": IMAGES, "annotations": rows}))


def test_coco_with_all_captions(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    write_table(folder / "annotations" / "captions_val2017.json", folder / "val2017")
    found = pair_set("coco", tmp_path, "val2017")
    assert captions(found) == [["A dog."], ["A cat.", "One cat", "Cat"]]
    assert found.image(0).shape == (3, 5, 6)  # type: ignore[union-attr]
    assert isinstance(pair_set("coco", tmp_path), MissingSet)  # Karpathy's is another one


@pytest.mark.parametrize("table", ["coco_test_karpathy.json", "dataset_coco.json"])
def test_karpathys_split_of_coco(tmp_path: Path, table: str) -> None:
    folder = tmp_path / "coco"
    if table.startswith("dataset"):
        write_karpathy(folder, "coco", filepath="val2014", pictures=".")
    else:
        write_table(folder / table, folder / "val2014")
    found = pair_set("coco", tmp_path)
    assert len(found) == 2
    assert found.image(1).shape == (3, 5, 6)  # type: ignore[union-attr]


@pytest.mark.parametrize("place", [".", "images", "flickr30k-images"])
def test_flickrs_pictures_lie_in_one_of_several_folders(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "flickr30k"
    write_karpathy(folder, "flickr30k", pictures=place)
    found = pair_set("flickr30k", tmp_path)
    assert captions(found) == [["caption 0.", "other 0"], ["caption 2."]]
    assert found.image(1).shape == (3, 5, 6)  # type: ignore[union-attr]


def test_clip_benchmarks_lines(tmp_path: Path) -> None:
    (tmp_path / "flickr8k").mkdir()
    (tmp_path / "flickr8k" / "1.jpg").write_bytes(picture(0))
    (tmp_path / "flickr8k" / "flickr8k_test_karpathy.txt").write_text("image,caption\n1.jpg,One\n1.jpg,Two\n")
    found = pair_set("flickr8k", tmp_path)
    assert captions(found) == [["One", "Two"]]
    assert found.image(0).shape == (3, 5, 6)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["test/0.tar", "flickr8k-test-000.tar"])
def test_shards(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    shard = tmp_path / "flickr8k" / name
    shard.parent.mkdir(parents=True)
    write_tar(shard, pair("a", 0, "One\nTwo"))
    assert captions(pair_set("flickr8k", tmp_path, expected=1000)) == [["One", "Two"]]
    assert "flickr8k (test) has 1 pictures, not 1000" in caplog.text


def test_a_missing_set_says_what_to_put_where(tmp_path: Path) -> None:
    for name, split, ways in (
        ("coco", "val2017", "annotations/captions_val2017.json and val2017/*.jpg, or shards val2017/*.tar"),
        ("flickr30k", "test", "dataset_flickr30k.json of Karpathy's splits and its pictures, or shards test/*.tar"),
    ):
        found = pair_set(name, tmp_path, split)
        assert isinstance(found, MissingSet)
        assert found.reason == f"put {ways} into {tmp_path / name}, or set evaluation.root or PROTOCLIP_SETS"
