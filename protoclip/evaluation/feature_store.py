"""Features of picture sets on the disk: encoded once, batch by batch, and read memory-mapped by every task.

What is stored lies in a folder (see ``protoclip.array_folder``) that is named by the hash of all that it depends on, so
every run that asks for the same shares it. That of a set has ``image_embedding``, ``labels``, ``text_embedding`` and
``owner`` where there are captions, the outputs of heads, and tokens where a task asks for them. ``features`` are the
embeddings at unit length: they are not kept twice. Prompts, which depend on no picture, have a folder of their own with
``class_features`` and what tasks ask of each prompt.

Until a set is whole, each batch that is done is a file of ``parts``, whole or absent: killed at any moment, the next
process makes the other batches, and the bytes of the result are the same.
"""

import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from protoclip.array_folder import SIDECAR, Array, damaged, read_arrays, read_facts, write_arrays
from protoclip.evaluation.task import Extracted
from protoclip.files import replacing
from protoclip.towers import Towers
from protoclip.towers.image import unit

PARTS = "parts"
BEGUN = "outputs.json"
LOCK = ".lock"
VERSION = 1
"""Of the files, and of what is computed of the same weights and pictures."""

Identity = Mapping[str, Any]


class StoredSet(NamedTuple):
    """The folders that a set's features are in: of its pictures and captions, and of its prompts if it has any."""

    pictures: Path
    prompts: Path | None


def model_identity(towers: Towers, heads: nn.Module) -> str:
    """Hash of all that features are computed with: the parts, their weights and buffers."""
    built = [towers.config, towers.not_in_open_clip, repr(towers), repr(heads)]
    digest = sha256(json.dumps(built, sort_keys=True, default=str).encode())
    for part in (towers, heads):
        for name, value in part.state_dict().items():
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {[*plain.shape]}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class _Store:
    """Arrays that are stored, or to be stored, in a folder named by what they depend on.

    Attributes:
        root: of all folders.
        identity: what the arrays depend on, in what JSON can hold.
        outputs: those that tasks ask for, beyond what is always kept. What is stored already is asked for too where
            more is needed: otherwise two runs that ask for different outputs would undo each other's work by turns.
    """

    root: Path
    identity: Identity
    outputs: frozenset[str]

    @cached_property
    def folder(self) -> Path:
        """Of the arrays."""
        described = json.dumps({**self.identity, "version": VERSION}, sort_keys=True)
        return self.root / sha256(described.encode()).hexdigest()[:12]

    def _whole(self) -> bool:
        """Whether everything is there.

        Raises:
            ValueError: it is damaged.
        """
        facts = read_facts(self.folder)
        if facts is None:
            return False
        stored = frozenset(facts.get("outputs", ()))
        if not self.outputs <= stored:
            self.outputs |= stored
            return False
        read_arrays(self.folder, check=True)
        return True

    def _write(self, arrays: Mapping[str, tuple[int, Iterable[Array]]]) -> None:
        (self.folder / SIDECAR).unlink(missing_ok=True)  # it tells of arrays that are replaced one by one
        write_arrays(self.folder, arrays, {"identity": self.identity, "outputs": sorted(self.outputs)})


@dataclass
class FeatureStore(_Store):
    """The features of a set. From ``begin`` until it is whole, or closed, no other process writes it.

    Attributes:
        size: pictures of the set.
        batch_size: pictures of a batch, a part of the identity.
    """

    size: int
    batch_size: int

    def begin(self) -> list[int]:
        """Numbers of the batches that are on the disk.

        Raises:
            ValueError: what there is is damaged, or another process writes it.
        """
        if not (self.folder / PARTS).exists() and self._whole():
            return [*range(self.batches)]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(f"{self.folder} is being written by another process: wait for it") from None
        if self._whole():
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)  # of a process that was killed in between
            self.close()
            return [*range(self.batches)]
        begun = self.folder / PARTS / BEGUN
        made = frozenset(json.loads(begun.read_text(encoding="utf-8"))) if begun.exists() else None
        if made is not None and self.outputs <= made:
            self.outputs = made
            return sorted(self._parts)
        self.outputs |= made or frozenset()
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        begun.parent.mkdir()
        with replacing(begun) as file:
            file.write(json.dumps(sorted(self.outputs)).encode())
        return []

    def close(self) -> None:
        """Let other processes write; without a single batch nothing is left behind."""
        if not self._lock.is_locked:
            return
        if not self._parts and not (self.folder / SIDECAR).exists():
            shutil.rmtree(self.folder)
            with suppress(OSError):  # others are stored there
                self.root.rmdir()
        self._lock.release()

    def write(self, batch: Mapping[str, Array], process: int = 0) -> None:
        """Keep a batch.

        Args:
            batch: ``index`` and ``label`` of the pictures, ``owner`` of captions, and ``TOWER/OUTPUT`` arrays.
            process: that made it; each writes into a folder of its own.
        """
        file = self.folder / PARTS / str(process) / f"{int(batch['index'][0]) // self.batch_size}.npz"
        file.parent.mkdir(exist_ok=True)
        kept: dict[str, Any] = {name.replace("/", "_"): value for name, value in batch.items()}
        for tower in ("image", "text"):
            if f"{tower}_embedding" in kept:
                del kept[f"{tower}_features"]
        with replacing(file) as whole:
            np.savez(whole, **kept)

    def finish(self) -> None:
        """Put the batches together, where they were not when they were begun.

        Raises:
            ValueError: a batch is damaged.
        """
        if not self._lock.is_locked:
            return
        parts = self._parts
        assert parts.keys() == {*range(self.batches)}, f"{self.folder}: {len(parts)} of {self.batches} batches"
        files = [parts[number] for number in range(self.batches)]
        names = self._read(files[0]).keys() - {"index"}
        captions = sum(len(self._read(file, "owner")["owner"]) for file in files) if "owner" in names else 0
        arrays = {
            {"label": "labels"}.get(name, name): (
                captions if name == "owner" or name.startswith("text_") else self.size,
                self._column(files, name),
            )
            for name in sorted(names)
        }
        self._write(arrays)
        shutil.rmtree(self.folder / PARTS)
        self.close()

    @cached_property
    def _lock(self) -> FileLock:
        return FileLock(self.folder / LOCK)

    @property
    def batches(self) -> int:
        """How many there are."""
        return -(-self.size // self.batch_size)

    @property
    def _parts(self) -> dict[int, Path]:
        return {int(file.stem): file for file in (self.folder / PARTS).glob("*/*.npz")}

    def _column(self, files: Iterable[Path], name: str) -> Iterator[Array]:
        return (self._read(file, name)[name] for file in files)

    def _read(self, file: Path, *names: str) -> dict[str, Array]:
        """Arrays of a batch, all where none is named."""
        try:
            with np.load(file, allow_pickle=False) as part:
                return {name: part[name] for name in names or part.files}
        except (BadZipFile, EOFError, KeyError, OSError, ValueError, zlib.error) as error:
            raise damaged(self.folder, f"{file.relative_to(self.folder)} cannot be read") from error


class PromptStore(_Store):
    """The features of a set's prompts; ``prompts`` and ``classnames`` of the identity are their hash and the names."""

    def keep(self, encode: Callable[[frozenset[str]], Mapping[str, Any]]) -> None:
        """Encode the prompts, where they are not stored; one process at a time, the others wait.

        Args:
            encode: gives ``class_features`` and ``prompts`` with these outputs.

        Raises:
            ValueError: what there is is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK):
            if self._whole():
                return
            found = encode(self.outputs)
            named = {f"prompts_{name}": value for name, value in found["prompts"].items()}
            named["class_features"] = found["class_features"]
            self._write({name: (len(value), [value.numpy()]) for name, value in named.items()})


def read_features(pictures: Path, prompts: Path | None = None, *, check: bool = False) -> Extracted:
    """The features of a set, memory-mapped, rows in the set's order.

    Args:
        pictures: folder of the pictures' features.
        prompts: folder of the prompts'.
        check: whether all of it is compared with the hashes of what was written.

    Raises:
        ValueError: something is missing or damaged.
    """
    arrays = _read(pictures, check=check)
    return Extracted(
        image=StoredOutputs(_named(arrays, "image_")),
        labels=arrays["labels"],
        text=StoredOutputs(_named(arrays, "text_")),
        owner=arrays.get("owner", torch.empty(0, dtype=torch.int64)),
        **({} if prompts is None else _read_prompts(prompts, check=check)),
    )


def _read_prompts(folder: Path, *, check: bool) -> dict[str, Any]:
    arrays, facts = _read(folder, check=check), read_facts(folder)
    assert facts is not None
    return {
        "class_features": arrays["class_features"],
        "prompts": _named(arrays, "prompts_"),
        "prompts_hash": facts["identity"]["prompts"],
        "classnames": tuple(facts["identity"]["classnames"]),
    }


def _read(folder: Path, *, check: bool) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in read_arrays(folder, check=check).items()}


class StoredOutputs(Mapping[str, Tensor]):
    """Outputs of a tower by name; ``features`` are made of the embeddings when they are first asked for.

    Args:
        outputs: that are stored.
    """

    def __init__(self, outputs: Mapping[str, Tensor]) -> None:
        self._outputs = outputs
        self._names = dict.fromkeys([*outputs, *(["features"] if "embedding" in outputs else [])])

    @cached_property
    def _features(self) -> Tensor:
        return unit(self._outputs["embedding"])

    def __getitem__(self, name: str) -> Tensor:
        return self._outputs[name] if name in self._outputs or name not in self._names else self._features

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _named(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
