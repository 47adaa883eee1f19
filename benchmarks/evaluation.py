"""``protoclip test`` on two sets beside the two commands of clip-benchmark that measure the same, from cold.

Zero-shot classification on CIFAR-10 and retrieval on Flickr8k, of an untrained open_clip model in a folder: each
command is a process of its own, and its seconds are those that a user waits, imports and reading the weights included.
Both compute in float32 on the CPU, without loader workers. ``.../cached`` is the same command once more: it reads the
features of the first. The sets are read from ``PROTOCLIP_DATA``.
"""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import open_clip
import torch
from clip_benchmark.cli import main as clip_benchmark
from PIL import Image

from benchmarks.measure import Measured, arguments, seconds, write
from protoclip.cli import main as ours

TARGET = 0.5
MODELS = {"small-vit": 5, "ViT-B-32": 3}
"""Repeats by model: one of this project's smallest, and one as it is published."""
TEMPLATES = ("a photo of a {}.", "a blurry photo of a {}.", "a picture of the {}.", "{} .")
CONFIGS = Path(__file__).parent.parent / "protoclip" / "model_configs"


@dataclass(frozen=True)
class Sets:
    """Tars of the two sets, a label ``cls`` or captions ``txt`` beside each picture."""

    cifar10: Path
    flickr8k: Path
    classnames: Path


def toy_sets(folder: Path) -> Sets:
    """A few pictures of noise."""
    generator = np.random.default_rng(0)
    for name, extension, texts in (("cifar10", "cls", "012345"), ("flickr8k", "txt", ["a dog\na cat"] * 10)):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for number, text in enumerate(texts):
                buffer = io.BytesIO()
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
                for kind, data in (("png", buffer.getvalue()), (extension, text.encode())):
                    member = tarfile.TarInfo(f"{number:03d}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (folder / "classnames.txt").write_text("\n".join(["cat", "dog", "car", "ship", "bird", "frog"]))
    return Sets(folder / "cifar10.tar", folder / "flickr8k.tar", folder / "classnames.txt")


def real_sets() -> Sets:
    """2,000 pictures of ten classes, and 500 with five captions each."""
    data = Path(os.environ["PROTOCLIP_DATA"])
    cifar10 = data / "cifar10"
    shards = (cifar10 / "cifar10-test-000.tar.gz", data / "flickr8k" / "flickr8k-test-000.tar")
    return Sets(*shards, cifar10 / "classnames.txt")


def write_model(name: str, folder: Path) -> str:
    """An untrained model as open_clip keeps models; how both commands call it."""
    open_clip.add_model_config(CONFIGS)
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    described = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": model.visual.preprocess_cfg}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def their_layout(root: Path, shard: Path, texts: dict[str, str]) -> None:
    """A set in the folders that clip-benchmark reads, its tar not compressed."""
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text("1")
    reader = gzip.GzipFile if shard.suffix == ".gz" else open
    with reader(shard, "rb") as packed, (root / "test" / "0.tar").open("wb") as file:
        shutil.copyfileobj(packed, file)
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)


def their_words(model: str, sets: Sets, folder: Path) -> list[list[str]]:
    """The words of clip-benchmark's two commands."""
    prompts = "\n".join(template.replace("{}", "{c}") for template in TEMPLATES)
    folder = folder / "theirs"
    texts = {"classnames": sets.classnames.read_text(), "zeroshot_classification_templates": prompts}
    if not (folder / "cifar10").exists():
        their_layout(folder / "cifar10", sets.cifar10, texts)
        their_layout(folder / "flickr8k", sets.flickr8k, {"dataset_type": "retrieval"})
    common = ["--model", model, "--no_amp", "--num_workers", "0", "--output", str(folder / "out.json")]
    return [
        ["eval", "--dataset", f"wds/{name}", "--dataset_root", str(folder / name), "--task", task, *options, *common]
        for name, task, options in (
            ("cifar10", "zeroshot_classification", []),
            ("flickr8k", "zeroshot_retrieval", ["--recall_k", "1", "5", "10"]),
        )
    ]


def our_words(model: str, sets: Sets, runs: Path) -> list[str]:
    """The words of our one command."""
    labelled = f"classnames:{sets.classnames},templates:{json.dumps(TEMPLATES)}"
    pictures = (
        f"cifar10:{{_target_:datamodules.shards.ShardLabelled,shards:{sets.cifar10},{labelled}}},"
        f"flickr8k:{{_target_:datamodules.shards.ShardPairs,shards:{sets.flickr8k}}}"
    )
    tasks = "protoclip.evaluation"
    scored = (
        f"cifar10_zero_shot:{{_target_:{tasks}.ZeroShot,pictures:cifar10}},"
        f"flickr8k_retrieval:{{_target_:{tasks}.Retrieval,pictures:flickr8k}}"
    )
    evaluation = f"++evaluation.test={{pictures:{{{pictures}}},tasks:{{{scored}}}}}"
    return ["test", "towers=open_clip", f"towers.name={model}", evaluation, f"runs={runs}", "trainer.accelerator=cpu"]


def run(program: str, words: Sequence[str], *, quick: bool) -> None:
    """A command in a process of its own; with ``quick`` in this one."""
    if not quick:
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        command = [str(Path(sys.executable).with_name(program)), *words]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return
    with patch.object(sys, "argv", [program, *words]), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = ours(words) if program == "protoclip" else clip_benchmark()
    assert not code, f"{program} {' '.join(words)}: {code}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both on each model."""
    options = arguments(__doc__, argv)
    quick: bool = options.quick
    for name, repeats in {"small-vit": 1}.items() if quick else MODELS.items():
        times: dict[str, list[float]] = {"ours": [], "cached": [], "theirs": []}
        with TemporaryDirectory() as temporary, patch.dict(os.environ):
            folder = Path(temporary)
            sets = toy_sets(folder) if quick else real_sets()
            model = write_model(name, folder / "model")
            for repeat in range(repeats):
                os.environ["PROTOCLIP_CACHE"] = str(folder / f"cache-{repeat}")  # cold: no index of the shards either
                test = partial(run, "protoclip", our_words(model, sets, folder / f"runs-{repeat}"), quick=quick)
                times["ours"].append(seconds(test))
                theirs = their_words(model, sets, folder / "theirs")
                times["theirs"].append(
                    sum(seconds(partial(run, "clip_benchmark", words, quick=quick)) for words in theirs)
                )
                times["cached"].append(seconds(test))
        sizes = {"model": name, "classes": 10, "templates": len(TEMPLATES), "toy": quick}
        called = f"clip-benchmark {version('clip-benchmark')}, eval on each set"
        measured = Measured(f"evaluation/{name}", times["ours"], sizes, called, times["theirs"], target=TARGET)
        write(measured, options.results)
        write(Measured(f"evaluation/{name}/cached", times["cached"], sizes), options.results)


if __name__ == "__main__":
    main()
