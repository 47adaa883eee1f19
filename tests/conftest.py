"""What the tests share: configs of a model that trains in milliseconds, and runs of it."""

import gc
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra.plugins.config_source import ConfigResult
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


def pytest_collection_finish() -> None:
    """Leave what is imported by now, a million objects, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 5, 5)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _wordnet(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["WORDNET"] = write_wordnet(tmp_path_factory.mktemp("wordnet"))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PROTOCLIP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _every_yaml_is_read_once() -> Iterator[None]:
    """Hydra reads some twenty files for each config that it composes, a third of its time."""
    read, results = ImportlibResourcesConfigSource.load_config, dict[tuple[str, str, str], bytes]()

    def load_config(self: ImportlibResourcesConfigSource, config_path: str) -> ConfigResult:
        key = (self.path, self.provider, config_path)
        if key not in results:
            results[key] = pickle.dumps(read(self, config_path))
        result: ConfigResult = pickle.loads(results[key])  # Hydra writes into it
        return result

    with patch.object(ImportlibResourcesConfigSource, "load_config", load_config):
        yield


@lru_cache(maxsize=100)
def _pickled(*words: str) -> bytes:
    with initialize_config_module("conf", version_base="1.3"):
        return pickle.dumps(compose("config", overrides=list(words)))


def composed(*words: str) -> DictConfig:
    """The config of some words, which Hydra composes once."""
    config: DictConfig = pickle.loads(_pickled(*words))
    return config


def composed_tiny(runs: Path, method: str, *overrides: str, progress: bool = False) -> DictConfig:
    """The config of a tiny model on scenes."""
    words = [word for word in TINY if not (progress and "progress" in word)]
    words += TINY_METHODS.get(method, ())
    config = composed(f"method={method}", *words, *overrides)
    config.runs = str(runs)
    return config


@pytest.fixture
def compose_tiny(tmp_path: Path) -> Compose:
    """A function from a method and overrides to a composed config of a tiny model on scenes."""

    def composed(method: str = "protoclip", *overrides: str, runs: Path = tmp_path) -> DictConfig:
        return composed_tiny(runs, method, *overrides)

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
