"""What the tests share: configs of a model that trains in milliseconds, and runs of it."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from tests.datamodules.test_wordnet import write_wordnet
from tests.gloo import Pool

Compose = Callable[..., DictConfig]

TINY = (
    "towers.image_size=32",
    "towers.context_length=16",
    "towers.embed_dim=16",
    "towers.text_layers=1",
    "towers.vision_cfg={width:8,layers:[1,1,1,1]}",
    "towers.text_cfg={width:16,heads:2}",
    "views=none",
    "logger=none",
    "evaluation=none",
    "~callbacks.learning_rate",
    "trainer.accelerator=cpu",
    "+trainer.enable_progress_bar=false",
    "~callbacks.progress",
    "data.num_pairs=64",
    "episode.size=32",
    "batch_size=8",
    "run.episodes=4",
    "optimizer.optimizer.lr=0.002",
)
TINY_PROTOTYPES = ("heads.prototype.hidden_dim=16", "heads.prototype.out_dim=8", "prototype.kmeans.iterations=4")
_SIMSIAM = ("heads.simsiam.out_dim=16", "terms.image_ssl.hidden_dim=8")
_DECLIP = (*_SIMSIAM, "terms.nearest_neighbour.size=20")
_FILIP = ("heads.filip.out_dim=8",)
TINY_METHODS = {
    "clip": (),
    "protoclip": TINY_PROTOTYPES,
    "slip": ("heads.simclr.hidden_dim=16", "heads.simclr.out_dim=8"),
    "filip": _FILIP,
    "declip": _DECLIP,
    "defilip": (*_DECLIP, *_FILIP),
    "pyramidclip": (),
}
"""The methods that are published, with what makes their heads tiny."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """A file stays in one of pytest-xdist's processes, with what its tests share; all users of the pool in the same."""
    for item in items:
        uses_pool = "pool" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("pool" if uses_pool else item.path.name))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _wordnet(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["WORDNET"] = write_wordnet(tmp_path_factory.mktemp("wordnet"))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PROTOCLIP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def compose_tiny(tmp_path: Path) -> Compose:
    """A function from a method and overrides to a composed config of a tiny model on scenes."""

    def composed(method: str = "protoclip", *overrides: str, runs: Path = tmp_path) -> DictConfig:
        words: Sequence[str] = [f"method={method}", f"runs={runs}", *TINY]
        words = [*words, *TINY_METHODS.get(method, ()), *overrides]
        with initialize_config_module("conf", version_base="1.3"):
            return compose("config", overrides=list(words))

    return composed


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Two processes for functions that communicate; they take seconds to start and serve all tests."""
    processes = Pool()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def data_folder() -> Path | None:
    """The folder of the real data, None where it is absent."""
    folder = os.environ.get("PROTOCLIP_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None
