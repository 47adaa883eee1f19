import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from protoclip.reports.figures import Picture
from protoclip.reports.projector import SIDE, write_projector


def read(folder: Path) -> dict[str, list[str]]:
    """Values by key of the one embedding that TensorBoard is told of."""
    values = defaultdict(list)
    for line in (folder / "projector_config.pbtxt").read_text().splitlines():
        key, _, value = line.strip().partition(": ")
        values[key].append(value.strip('"'))
    assert values.pop("embeddings {") == [""]
    return values


def test_tensors_metadata_and_sprite_agree(tmp_path: Path) -> None:
    features = torch.arange(15.0).reshape(5, 3)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (9, 9, 9)]
    pictures: list[Picture] = [Image.new("RGB", (50, 40), colour) for colour in colours]
    pictures[4] = torch.full((3, 8, 9), 9, dtype=torch.uint8)
    write_projector(tmp_path / "p", "cats", torch.zeros(2, 2), ["old", "old"])
    write_projector(tmp_path / "p", "cats", features, ["a", "b", "a", "c", "b"], pictures)
    embedding = read(tmp_path / "p")
    assert embedding["tensor_name"] == ["cats:00000"]  # the earlier one is gone
    with (tmp_path / "p" / embedding["tensor_path"][0]).open() as file:
        rows = [[float(value) for value in row] for row in csv.reader(file, delimiter="\t")]
    assert rows == features.tolist()
    assert (tmp_path / "p" / embedding["metadata_path"][0]).read_text().split() == ["a", "b", "a", "c", "b"]
    assert embedding["single_image_dim"] == [str(SIDE), str(SIDE)]
    sheet = np.asarray(Image.open(tmp_path / "p" / embedding["image_path"][0]))
    assert sheet.shape == (3 * SIDE, 3 * SIDE, 3)  # the least square that holds five
    centres = [sheet[SIDE // 2 + SIDE * (place // 3), SIDE // 2 + SIDE * (place % 3)].tolist() for place in range(5)]
    assert np.abs(np.array(centres) - np.array(colours)).max() <= 1


def test_without_pictures_there_are_points(tmp_path: Path) -> None:
    write_projector(tmp_path, "x", torch.zeros(2, 2), ["0", "1"])
    assert "image_path" not in read(tmp_path)
