"""Finished caches of a corpus: a JSON file says what they hold, and arrays hold it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from protoclip.caches.keys import KEYS, find_keys


@dataclass(frozen=True)
class Origin:
    """Where the caches of one kind come from.

    Attributes:
        command: of ``protoclip``, that makes them.
        option: that sets the folder.
        sidecar: the JSON file, written last.
    """

    command: str
    option: str
    sidecar: str

    @property
    def mend(self) -> str:
        """What makes a missing or damaged cache."""
        return f"run protoclip {self.command} with the same words"

    @property
    def elsewhere(self) -> str:
        """What to do where another cache lies; removing it comes second: it may be another experiment's."""
        return f"choose another folder by {self.option}=DIR, or remove this one, and {self.mend}"


class CorpusCache(ABC):
    """A finished cache; nothing is read before it is asked for, and a copy in a loader's worker reads for itself.

    Args:
        folder: of the cache.
        made_by: what should have made it, a description by the sidecar's key; None for whatever has.

    Attributes:
        origin: its command, option and sidecar.
        by_key: whether pairs are asked for by the numbers of their keys, and not by their places in the corpus.
    """

    origin: ClassVar[Origin]

    def __init__(self, folder: str, made_by: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.by_key = False
        self._made_by = dict(made_by or {})
        self._arrays: list[NDArray[Any]] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the sidecar says. Raises ValueError like ``check``, but for the corpus."""
        facts = read_sidecar(Path(self.folder), self.origin, self._called)
        refuse_other(Path(self.folder), facts, self._made_by, self.origin)
        return facts

    @property
    def _called(self) -> str:
        return f"the cache {self.folder}"

    def identity(self, corpus: str) -> dict[str, Any]:
        """What the cache of a corpus depends on.

        Args:
            corpus: its fingerprint.
        """
        return {**self._made_by, "corpus": corpus}

    @property
    def fingerprint(self) -> str:
        """Hash of what training reads, not of where it lies. Raises ValueError like ``check``, but for the corpus."""
        facts = self.facts
        return sha256(json.dumps([facts["sha256"], facts["corpus"]]).encode()).hexdigest()

    def check(self, source_fingerprint: str) -> None:
        """Refuse a cache that is not of this corpus, or that was made by other settings.

        Args:
            source_fingerprint: of the corpus that is trained on.

        Raises:
            ValueError: it is missing, unfinished, damaged, of another corpus or of other settings.
        """
        refuse_other(Path(self.folder), self.facts, self.identity(source_fingerprint), self.origin)
        self._open()

    def serve(self, source_fingerprint: str | None) -> None:
        """Serve a corpus; or a stream, whose pairs are found by their keys, whatever corpus the cache was made of.

        Args:
            source_fingerprint: of the corpus; None for a stream.

        Raises:
            ValueError: as ``check``; of a stream, but for the corpus.
        """
        self.by_key, self._arrays = source_fingerprint is None, None
        self.check(self.facts["corpus"] if source_fingerprint is None else source_fingerprint)

    def pairs(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pairs of the cache [n], by their places in the corpus or by the numbers of their keys [n].

        Raises:
            ValueError: a key is not in the cache, or there for several pairs.
        """
        if not self.by_key:
            return indices
        try:
            return find_keys(self._open()[-1], indices)
        except KeyError as error:
            told = f"the cache {self.folder} does not have just one pair of a key of the stream, that of number {error}"
            raise ValueError(f"{told}: {self.origin.elsewhere}") from error

    @abstractmethod
    def shapes(self, facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The array files and their shapes, as the sidecar has them."""

    def _open(self) -> list[NDArray[Any]]:
        if self._arrays is None:
            facts = self.facts
            shapes = dict(self.shapes(facts))
            if self.by_key:
                shapes[KEYS] = (2, facts["pairs"])
            self._arrays = open_arrays(Path(self.folder), shapes, self.origin)
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        """Settings without the open files: a memory map would be pickled with all its data."""
        return {**self.__dict__, "_arrays": None}


def read_sidecar(folder: Path, origin: Origin, what: str) -> dict[str, Any]:
    """What the sidecar of a finished cache says.

    Args:
        folder: of the cache.
        origin: of the cache.
        what: the cache, for messages.

    Raises:
        ValueError: it is missing, not finished or damaged.
    """
    if not (folder / origin.sidecar).is_file():
        raise ValueError(f"{what} {'is not finished' if folder.is_dir() else 'is missing'}: {origin.mend}")
    return read_facts(folder / origin.sidecar)


def open_arrays(folder: Path, shapes: Mapping[str, tuple[int, ...]], origin: Origin) -> list[NDArray[Any]]:
    """Memory-mapped ``.npy`` files.

    Args:
        folder: of the files.
        shapes: that they have, by name.
        origin: of the cache.

    Raises:
        ValueError: one is missing or damaged, or has another shape.
    """
    try:
        arrays = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in shapes]
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder} is damaged ({reason}): remove it and {origin.mend}") from error
    for array, (name, shape) in zip(arrays, shapes.items(), strict=True):
        if array.shape != shape:
            told = f"{name} is {array.shape} instead of {shape}"
            raise ValueError(f"{folder} is damaged ({told}): remove it and {origin.mend}")
    return arrays


def refuse_other(folder: Path, facts: Mapping[str, Any], identity: Mapping[str, Any], origin: Origin) -> None:
    """Refuse what was made by other settings, or of another corpus.

    Args:
        folder: of the cache.
        facts: of what there is.
        identity: that it should have.
        origin: of the cache.

    Raises:
        ValueError: with the first setting that differs.
    """
    there, wanted = (dict(_flat({key: facts.get(key) for key in identity})), dict(_flat(identity)))
    for key in sorted(there.keys() | wanted.keys()):
        if there.get(key) != wanted.get(key):
            told = key if key == "corpus" else f"{key}={there.get(key)} instead of {wanted.get(key)}"
            other = "of another corpus" if key == "corpus" else f"made with {told}"
            raise ValueError(f"the cache {folder} is {other}: {origin.elsewhere}")


def read_facts(file: Path) -> dict[str, Any]:
    """What a JSON file of a cache says.

    Raises:
        ValueError: it is damaged.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: remove the folder {file.parent} and make it again") from error
    assert isinstance(facts, dict)
    return facts


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values."""
    return [
        pair
        for key, value in settings.items()
        for pair in (_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)])
    ]
