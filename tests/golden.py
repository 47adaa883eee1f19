"""Losses of ten training steps, to see whether a change of code changes the numbers; ``python -m tests.golden``.

In float64 from the initial weights on, on one thread, of pictures without a resampling that depends on the CPU: what is
left are differences in the last digits between machines. A change of digits is a line in the CHANGELOG.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from datamodules.sources import PairSource
from protoclip.cli.build import build_datamodule, build_module, build_trainer, find_run
from tests.conftest import TINY, TINY_METHODS, TINY_PROTOTYPES
from tests.datamodules.test_wordnet import write_wordnet
from tests.teachers import DIM, fill_caches

FILE = Path(__file__).with_suffix(".json")
STEPS = 10
"""Of 12: three episodes of four, InfoNCE alone in the first, prototypes renewed before the second and the third."""

PROTOTYPES = (*TINY_PROTOTYPES, "prototype.kmeans.backend=torch")  # FAISS' sums depend on the CPU
TEACHER = ("teacher=minilm", "teachers.minilm.dims=null", f"banks.minilm.teacher_dim={DIM}")  # and so does a PCA
NO_BLUR = ("views.image_views.ssl_1.blur=0", "views.image_views.ssl_2.blur=0")  # and so does a convolution
OPTIONS = {
    **TINY_METHODS,
    "protoclip": PROTOTYPES,
    "teacher": (*PROTOTYPES, *TEACHER),
    "distillation": (*PROTOTYPES, *TEACHER),
    "slip": (*TINY_METHODS["slip"], *NO_BLUR),
    "pyramidclip": ("data.roi_dim=5",),
}
SETTING = (
    *TINY,
    "run.episodes=3",
    "optimizer.schedule.warmup=0.25",
    "trainer.precision=64-true",
    "~callbacks.checkpoint_best",
    "~callbacks.checkpoint_last",
    "+trainer.enable_checkpointing=false",
    "~data.train",
    "+data.train={_target_: tests.golden.Stripes}",
)


class Stripes(PairSource):
    """Pairs from integer arithmetic: coloured stripes and words for them."""

    fingerprint = "stripes"
    words = ("red", "green", "blue", "narrow", "wide", "fine", "coarse", "bright", "dark", "even")

    def __len__(self) -> int:
        """As many as the config of the tests has scenes."""
        return 64

    def image(self, index: int) -> Image.Image:
        """Stripes whose width, slope and colours follow from the index."""
        y, x, channel = np.ogrid[:40, :40, :3]
        width, slope = 3 + index % 7, index // 7 % 5
        values = (x + slope * y) // width * (37 + 13 * (channel + index)) + 50 * channel
        return Image.fromarray((values % 256).astype(np.uint8))

    def captions(self, index: int) -> list[str]:
        """Two captions."""
        first, second = self.words[index % 7], self.words[3 + index // 7 % 5]
        return [f"{first} and {second} stripes", f"stripes, number {index}"]

    def summary(self, index: int) -> str:
        """One word of the captions."""
        return self.words[index % 7]

    def regions(self, index: int) -> Tensor:
        """None, one or two boxes of five numbers."""
        return torch.arange(1.0, 1 + 5 * (index % 3)).reshape(-1, 5).mul(1 + index % 4).sin()

    def label(self, index: int) -> int:
        """Stripes of one width."""
        return index % 7


class Losses(Callback):
    """Loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Take it at full precision."""
        assert outputs["loss"].dtype == torch.float64
        self.values.append(float(outputs["loss"]))


def losses(method: str) -> list[float]:
    """Losses of the first training steps of a method."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            words = [f"method={method}", f"runs={folder}", f"teacher.cache={folder}", *SETTING, *OPTIONS[method]]
            with patch.dict(os.environ, WORDNET=write_wordnet(Path(folder) / "wordnet")):
                return _train(words)
    finally:
        torch.set_num_threads(threads)


def _train(words: list[str]) -> list[float]:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", overrides=words)
    datamodule = build_datamodule(fill_caches(config))
    find_run(config, datamodule)
    trainer = build_trainer(config, datamodule)
    recorder = Losses()
    trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    with trainer.init_module():  # initial weights drawn in float64: in float32 their last digit depends on the CPU
        module = build_module(config)
    trainer.fit(module, datamodule=datamodule)
    return recorder.values[:STEPS]


def read() -> Mapping[str, list[float]]:
    """The losses on file by method."""
    stored: dict[str, list[float]] = json.loads(FILE.read_text(encoding="utf-8"))
    return stored


def write() -> None:
    """Put today's losses on file."""
    FILE.write_text(json.dumps({method: losses(method) for method in OPTIONS}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
