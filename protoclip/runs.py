"""Run directories: named by the hash of what determines a result, so that the same command finds its run again."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from protoclip.checkpoints import LAST, read_checkpoint
from protoclip.evaluation import Extracted
from protoclip.evaluation.feature_store import StoredSet, read_features
from protoclip.files import make_folder, replacing
from protoclip.instantiate import instantiate
from protoclip.module import ImageTextPretraining
from protoclip.reports.rows import Row, append_rows, read_rows

ROWS = "rows.jsonl"
FEATURES = "features.json"
SETTINGS = "lightning.yaml"
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
HASHED = ("model", "datamodule", "trainer", "callbacks", "run", "extra")
"""The parts of a config that a run is built from, and what was set beside it; the other groups only feed them."""

UNHASHED = (
    "datamodule.train",
    "datamodule.validation",
    "datamodule.test",
    "datamodule.num_workers",
    "datamodule.prefetch",
    "datamodule.max_faults",
    "datamodule.keep_tokens",
    "datamodule.teachers",
    "callbacks.prototype_refresh.folder",
    "callbacks.evaluation.folder",
    "callbacks.divergence",
    "callbacks.fault_summary",
    "callbacks.interruption",
    "callbacks.progress",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.plugins",
)
"""What does not change a result; the data enter by their fingerprints instead of their paths."""


class RunLockedError(ValueError):
    """Another process writes the run."""

    def __init__(self, run: "Run") -> None:
        super().__init__(run)
        self.run = run

    def __str__(self) -> str:
        return f"{self.run.path} is being written by another process: wait for it, or choose another directory"


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        hash: of the resolved config and the data.
    """

    path: Path
    hash: str

    @property
    def last(self) -> Path | None:
        """Checkpoint of the last finished episode, None before the first."""
        path = self.path / CHECKPOINTS / LAST
        return path if path.exists() else None

    @property
    def rows(self) -> list[Row]:
        """Results, one row per evaluated task."""
        return read_rows(self.path / ROWS)

    @property
    def cost(self) -> dict[str, float]:
        """What the training took: episodes, steps, pairs, and seconds in all and by phase."""
        return self.rows[0]["cost"]

    @rank_zero_only
    def write_rows(self, rows: Sequence[Row]) -> None:
        """Keep the results."""
        with replacing(self.path / ROWS) as file:
            append_rows(file.name, rows)

    @rank_zero_only
    def write_features(self, stored: Mapping[str, StoredSet]) -> None:
        """Remember where the features of the test sets are, seen from here: the folder of all runs may be moved."""
        here = self.path.resolve()
        told = {
            name: {part: os.path.relpath(folder.resolve(), here) for part, folder in found._asdict().items() if folder}
            for name, found in stored.items()
        }
        with replacing(self.path / FEATURES) as file:
            file.write(json.dumps(told, indent=2).encode() + b"\n")

    @property
    def done(self) -> bool:
        """Whether the run was trained and evaluated to the end."""
        return (self.path / "DONE").exists()

    @rank_zero_only
    def finish(self) -> None:
        """Mark the run as finished."""
        with replacing(self.path / "DONE"):
            pass

    @property
    def settings(self) -> dict[str, Any]:
        """What ``lightning.yaml`` holds, ``${run_dir}`` left open."""
        settings = OmegaConf.to_container(OmegaConf.load(self.path / SETTINGS))
        assert isinstance(settings, dict)
        return {str(key): value for key, value in settings.items()}

    @property
    def facts(self) -> dict[str, Any]:
        """What ``describe`` kept: hash, manifest, git, started, seed, episodes."""
        facts: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        return facts

    @property
    def finished_episodes(self) -> int:
        """Episodes up to the last checkpoint."""
        if self.last is None:
            return 0
        return int(torch.load(self.last, map_location="cpu", weights_only=True, mmap=True)["epoch"]) + 1

    @property
    def locked(self) -> bool:
        """Whether a process is writing the run."""
        if not (self.path / LOCK).exists():
            return False
        try:
            with self.lock():
                return False
        except RunLockedError:
            return True
        except PermissionError:
            return False  # nobody who may write here can be told from nobody

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing the run during the body; the first process of several holds the lock.

        A body that writes nothing, such as one that ends with a mistake, leaves no directory.

        Raises:
            RunLockedError: another process writes it.
        """
        if getattr(rank_zero_only, "rank", 0):
            yield
            return
        made = [self.path, *(folder for folder in self.path.parents if not folder.exists())]
        make_folder(self.path)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise RunLockedError(self) from None
        try:
            yield
        finally:
            if [*self.path.iterdir()] == [self.path / LOCK]:
                (self.path / LOCK).unlink()
                for folder in made:
                    if not any(folder.iterdir()):
                        folder.rmdir()
            lock.release()

    @rank_zero_only
    def describe(self, files: Mapping[str, str], **facts: Any) -> None:
        """Write files by name (``lightning.yaml``, ``config.yaml``), and facts with the hash and the git revision."""
        self.path.mkdir(parents=True, exist_ok=True)
        started = self.facts["started"] if (self.path / "run.json").exists() else now()
        facts = {"hash": self.hash, "git": git_revision(), "started": started, **facts}
        for name, text in {**files, "run.json": json.dumps(facts, indent=2) + "\n"}.items():
            with replacing(self.path / name) as file:
                file.write(text.encode())


def checkpoint_in_run(path: Path) -> tuple[Run, Path] | None:
    """The run and the checkpoint that a path means; None for a path in no run directory.

    Args:
        path: a run directory, which means its last checkpoint, or a file in its folder ``checkpoints``.

    Raises:
        ValueError: the path is not there, or a directory holds no run with a checkpoint.
    """
    if not path.exists():
        raise ValueError(f"no file {path}: check the path")
    run = Run(path, path.name) if path.is_dir() else Run(path.parent.parent, path.parent.parent.name)
    described = (run.path / SETTINGS).is_file()
    if not path.is_dir():
        return (run, path) if described and path.parent.name == CHECKPOINTS else None
    if run.last is None or not described:
        raise ValueError(f"{path} holds no checkpoint: give a directory runs/NAME/HASH of a run that was trained")
    return run, run.last


def load(path: str | os.PathLike[str]) -> tuple[ImageTextPretraining, dict[str, Any]]:
    """The model of a run's last episode, or of another checkpoint of it, in eval mode on the CPU, and its settings.

    Args:
        path: a run directory, or a file in its folder ``checkpoints``.

    Returns:
        The module and what ``lightning.yaml`` holds: ``model``, ``data``, ``trainer``, ``run``, ``seed_everything``.

    Raises:
        ValueError: there is no run with a checkpoint, or a damaged one, or one of another model.
    """
    found = checkpoint_in_run(Path(path))
    if found is None:
        raise ValueError(f"{path} is in no run directory: give runs/NAME/HASH, or a file in its folder {CHECKPOINTS}")
    run, checkpoint = found
    module = instantiate(ImageTextPretraining, run.settings["model"], "model")
    saved = read_checkpoint(checkpoint)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    return module.eval(), run.settings


def features(path: str | os.PathLike[str]) -> dict[str, Extracted]:
    """The features of a run's test sets, memory-mapped, by the sets' names; rows are in the sets' order.

    Args:
        path: a run directory.

    Raises:
        ValueError: there are none yet, or damaged ones.
    """
    here = Path(path).resolve()
    if not (here / FEATURES).exists():
        raise ValueError(f"{path} holds no features: give a run directory, after protoclip test or protoclip predict")
    told = json.loads((here / FEATURES).read_text(encoding="utf-8"))
    found = {name: {part: here / folder for part, folder in parts.items()} for name, parts in sorted(told.items())}
    for folder in (folder for parts in found.values() for folder in parts.values()):
        if not folder.is_dir():
            mend = "move the folder of all runs as a whole, or run protoclip test again"
            raise ValueError(f"the features of {path} are not in {os.path.normpath(folder)}: {mend}")
    return {name: read_features(**folders, check=True) for name, folders in found.items()}


def config_hash(config: Mapping[str, Any], fingerprints: Mapping[str, str]) -> str:
    """Hash of a resolved config and of the data that it names.

    Args:
        config: plain containers.
        fingerprints: of the corpus and the picture sets, by name.
    """
    settings = {
        key: value
        for key, value in _flatten({name: config[name] for name in HASHED if name in config})
        if not _unhashed(key)
    }
    if not config["trainer"].get("sync_batchnorm"):  # each process has batch statistics of its own then
        settings["trainer.devices"] = config["trainer"].get("devices")
    text = json.dumps({"settings": settings, "data": dict(fingerprints)}, sort_keys=True)
    return sha256(text.encode()).hexdigest()[:12]


def _unhashed(key: str) -> bool:
    key = re.sub(r"^extra\.(data\.)?", lambda found: "datamodule." if found[1] else "", key)
    kept_beside = ".rows." in key  # a cache beside the corpus enters by its fingerprint
    return kept_beside or any(key == name or key.startswith(name + ".") for name in UNHASHED)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def finished_runs(*patterns: str) -> list[Run]:
    """The finished runs among directories, the newest first.

    Args:
        patterns: of directories, such as ``runs/*/*``.

    Raises:
        ValueError: there is none.
    """
    paths = {path for pattern in patterns for path in map(Path, glob(pattern))}  # noqa: PTH207 - Path's refuses absolute ones
    done = [run for path in paths if (run := Run(path, path.name)).done]
    if not done:
        raise ValueError(f"no finished run in {' '.join(patterns)}: train one, or give the runs/NAME/HASH of one")
    return sorted(done, key=lambda run: (run.path / "DONE").stat().st_mtime, reverse=True)


def git_revision() -> str:
    """Revision of the checkout that the code runs from, with ``+`` after it if it was changed; ``unknown`` without."""
    folder = Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
