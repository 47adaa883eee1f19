"""The same weights and pictures under this project's command and under ``clip_benchmark eval``: equal to 1e-4."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.evaluation import their_layout
from datamodules.shards import ShardLabelled, ShardPairs
from datamodules.views import MEAN, STD, evaluation_transform
from protoclip.cli import main
from protoclip.open_clip_folder import write_open_clip_folder
from protoclip.reports.rows import read_rows
from protoclip.tokenizer import create_tokenizer
from protoclip.towers import create_towers, preprocessing

TEMPLATES = ("a photo of a {}.", "a blurry photo of a {}.", "{} .")
SIZES: dict[str, Any] = {"embed_dim": 32, "text_layers": 1, "text_cfg": {"width": 32, "heads": 2}}
SIZES["vision_cfg"] = {"width": 8, "layers": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def model(data_folder: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model that has seen some pictures of CIFAR-10: untrained ones give nearly equal scores."""
    if data_folder is None:
        pytest.skip("PROTOCLIP_DATA is not set: the real data are absent")
    torch.manual_seed(0)
    towers, tokenizer = create_towers("small-resnet", **SIZES), create_tokenizer("small-resnet")
    images, labels, captions = pictures(data_folder, towers.image.image_size)
    ids = tokenizer(captions)
    optimizer = torch.optim.Adam(towers.parameters(), lr=3e-3)
    for _ in range(40):
        rows = torch.randint(len(images), (64,))
        image, text = towers.image(images[rows])["features"], towers.text(ids)["features"]
        loss = F.cross_entropy(10 * image @ text.T, labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    folder = tmp_path_factory.mktemp("model") / "exported"
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    write_open_clip_folder(folder, towers, tokenizer, preprocess, log_scale=2.3)
    return folder


def pictures(data: Path, size: int) -> tuple[Tensor, Tensor, list[str]]:
    """CIFAR-10's first pictures, their classes, and a caption of each class."""
    source = labelled(data, "train-000")
    transform = evaluation_transform(size)
    images = torch.stack([transform(source.image(index)) for index in range(400)])
    labels = torch.tensor([source.label(index) for index in range(400)])
    return images, labels, [TEMPLATES[0].format(name) for name in source.classnames]


def labelled(data: Path, shard: str) -> ShardLabelled:
    folder = data / "cifar10"
    shards = str(folder / f"cifar10-{shard}.tar.gz")
    return ShardLabelled(shards, classnames=folder / "classnames.txt", templates=TEMPLATES)


def theirs(model: Path, root: Path, name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What clip_benchmark's command says, in percent."""
    from clip_benchmark.cli import main as clip_benchmark

    out = root / "result.json"
    words = ["eval", "--model", f"local-dir:{model}", "--dataset", f"wds/{name}", "--dataset_root", str(root)]
    words += ["--task", task, "--recall_k", "1", "5", "10", "--no_amp", "--num_workers", "0", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", *words, "--quiet"])
    clip_benchmark()
    return {key: 100 * value for key, value in json.loads(out.read_text())["metrics"].items()}


def ours(model: Path, runs: Path, pictures: str, task: str) -> dict[str, float | None]:
    """What ``protoclip test`` says."""
    evaluation = f"++evaluation.test={{pictures:{{shown:{pictures}}},tasks:{{shown_task:{task}}}}}"
    chosen = [
        "towers=open_clip",
        f"towers.name=local-dir:{model}",
        evaluation,
        f"runs={runs}",
        "trainer.accelerator=cpu",
    ]
    assert main(["test", *chosen, "+trainer.enable_progress_bar=false", "~callbacks.progress"]) == 0
    (file,) = runs.glob("*/*/rows.jsonl")
    (row,) = read_rows(file)
    return row["metrics"]


def test_pixels(model: Path, data_folder: Path) -> None:
    """Metrics of thousands of pictures do not move by a grey level here and there; these do."""
    import open_clip

    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    source = ShardPairs(data_folder / "flickr8k" / "flickr8k-test-000.tar")
    mine = evaluation_transform(transform.transforms[0].size, **preprocessing(f"local-dir:{model}"))
    for index in range(20):
        other = Image.open(io.BytesIO(source.encoded(index))).convert("RGB")
        torch.testing.assert_close(mine(source.image(index)), transform(other), rtol=0, atol=1e-6)


def test_zero_shot(model: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data_folder / "cifar10"
    names = (source / "classnames.txt").read_text()
    prompts = "\n".join(template.replace("{}", "{c}") for template in TEMPLATES)
    root = tmp_path / "wds"
    shard = source / "cifar10-test-000.tar.gz"
    their_layout(root, shard, {"classnames": names, "zeroshot_classification_templates": prompts})
    expected = theirs(model, root, "cifar10", "zeroshot_classification", monkeypatch)
    templates = json.dumps(list(TEMPLATES))
    pictures = f"{{_target_:datamodules.shards.ShardLabelled,shards:{shard},classnames:{source}/classnames.txt"
    task = "{_target_:protoclip.evaluation.ZeroShot,pictures:shown}"
    found = ours(model, tmp_path / "runs", f"{pictures},templates:{templates}}}", task)
    assert expected["acc1"] > 12
    pairs = {"top1": "acc1", "top5": "acc5", "mean_per_class": "mean_per_class_recall"}
    assert found == pytest.approx({own: expected[other] for own, other in pairs.items()}, abs=1e-2)


def test_retrieval(model: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "wds"
    shard = data_folder / "flickr8k" / "flickr8k-test-000.tar"
    their_layout(root, shard, {"dataset_type": "retrieval"})
    expected = theirs(model, root, "flickr8k_test", "zeroshot_retrieval", monkeypatch)
    task = "{_target_:protoclip.evaluation.Retrieval,pictures:shown}"
    found = ours(model, tmp_path / "runs", f"{{_target_:datamodules.shards.ShardPairs,shards:{shard}}}", task)
    for own, other in (("image_to_text", "text_retrieval"), ("text_to_image", "image_retrieval")):
        for k in (1, 5, 10):
            assert found[f"{own}_R@{k}"] == pytest.approx(expected[f"{other}_recall@{k}"], abs=1e-2)
