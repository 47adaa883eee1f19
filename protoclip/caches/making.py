"""Makes the cache of a corpus; killed at any moment, it goes on after the last batch that is on the disk.

The sidecar is written last. Until then the folder holds files to which batches are appended, and ``progress.json``,
which says how much of them counts. Batches are made of whole pairs from the first one on, so that they are the same
after an interruption, and so are the bytes of the result.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, ClassVar

import numpy as np
from filelock import FileLock, Timeout

from protoclip.caches.keys import write_keys
from protoclip.caches.reading import Origin, read_facts, refuse_other
from protoclip.files import make_folder, replacing

Sample = Sequence[Any] | None
"""What the model makes rows of, such as the captions of a pair or its picture alone; None: it cannot be read."""

Numbered = tuple[int, Sample]
"""The number of a pair's key, and its sample."""

PROGRESS = "progress.json"
KEYS = "keys.raw"
COMMIT_SECONDS = 2.0
"""Work that a kill may cost: bringing every batch to the disk would hold up a fast device."""


@dataclass
class Progress:
    """What is on the disk of an unfinished cache.

    Attributes:
        identity: what the result depends on.
        sizes: bytes that count, of each file that is appended to.
        pairs: done so far.
        unreadable: pairs among them.
    """

    identity: dict[str, Any]
    sizes: dict[str, int]
    pairs: int = 0
    unreadable: int = 0


class Recipe(ABC):
    """How the cache of a corpus is made of batches of samples.

    Args:
        folder: of the cache.

    Attributes:
        origin: of the cache.
        scratch: files that only an unfinished cache needs.
    """

    origin: ClassVar[Origin]
    scratch: ClassVar[Sequence[str]] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def load(self) -> None:
        """Load the model, before the folder is made. Raises ValueError where that cannot be."""

    @abstractmethod
    def identity(self, corpus: str) -> dict[str, Any]:
        """What the result depends on, in plain values, with the corpus' fingerprint as ``corpus``."""

    def check(self, corpus: str) -> None:
        """Refuse a finished cache of other settings or of another corpus by a ValueError; needs no model."""
        self.refuse_other(read_facts(self.folder / self.origin.sidecar), corpus)

    def refuse_other(self, facts: Mapping[str, Any], corpus: str) -> None:
        """Refuse, by a ValueError, what was made by other settings or of another corpus, as its facts say."""
        refuse_other(self.folder, facts, self.identity(corpus), self.origin)

    @abstractmethod
    def start(self) -> Mapping[str, bytes]:
        """The files that are appended to, and what they begin with."""

    @abstractmethod
    def encode(self, batch: Sequence[Sample], pair: int) -> Mapping[str, bytes]:
        """What to append to the files for a batch, the first of whose pairs has this number."""

    @abstractmethod
    def finish(self, progress: Progress) -> dict[str, Any]:
        """Write further files, each by ``replacing``; returns what the sidecar says beside the identity."""


def make_cache(
    recipe: Recipe, samples: Callable[[int], Iterable[Numbered]], *, corpus: str, pairs: int | None, batch_size: int
) -> bool:
    """Make the cache of a corpus, or finish it.

    Args:
        recipe: where to, and by what.
        samples: the corpus from a pair on, in order.
        corpus: its fingerprint.
        pairs: its size; None where only its end tells.
        batch_size: items of a batch, which is closed by the pair that fills it.

    Returns:
        False where the cache is finished already.

    Raises:
        ValueError: the folder holds another cache or is being written, no pair comes, or the recipe refuses.
    """
    folder, finished = recipe.folder, recipe.folder / recipe.origin.sidecar
    if not finished.exists():
        recipe.load()  # what cannot be made leaves no folder
    make_folder(folder)
    with _lock(folder):
        if finished.exists():
            recipe.check(corpus)
            _tidy(recipe)
            return False
        progress = _begin(recipe, corpus)
        if pairs is None or progress.pairs < pairs:
            _append(recipe, progress, _batches(samples(progress.pairs), batch_size))
        if progress.pairs == 0:
            raise ValueError("the corpus has no pair that can be read: there is nothing to make a cache of")
        assert pairs in {None, progress.pairs}, f"the corpus gave {progress.pairs} of {pairs} pairs"
        facts = {**progress.identity, "pairs": progress.pairs, "unreadable": progress.unreadable}
        facts |= recipe.finish(progress)
        write_keys(folder, np.fromfile(folder / KEYS, np.int64, progress.pairs))
        with replacing(finished) as file:
            file.write(json.dumps(facts, indent=2).encode() + b"\n")
        _tidy(recipe)
        return True


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"{folder} is being written by another process: wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _begin(recipe: Recipe, corpus: str) -> Progress:
    """What there is of the cache, or a new one."""
    folder = recipe.folder
    if (folder / PROGRESS).exists():
        facts = read_facts(folder / PROGRESS)
        recipe.refuse_other(facts.get("identity", {}), corpus)
        progress = Progress(**facts)
        lost = [name for name, size in progress.sizes.items() if _size(folder / name) < size]
        if lost or KEYS not in progress.sizes:
            raise ValueError(f"{folder} is damaged: remove it and {recipe.origin.mend}")
        return progress
    files = {**recipe.start(), KEYS: b""}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    progress = Progress(recipe.identity(corpus), {name: len(content) for name, content in files.items()})
    _commit(folder, progress)
    return progress


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


def _commit(folder: Path, progress: Progress, *files: BinaryIO) -> None:
    """Let count what was appended to the files, once it is on the disk."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    with replacing(folder / PROGRESS) as file:
        file.write(json.dumps(asdict(progress)).encode())


def _batches(samples: Iterable[Numbered], size: int) -> Iterator[list[Numbered]]:
    batch: list[Numbered] = []
    items = 0
    for number, sample in samples:
        batch.append((number, sample))
        items += 1 if sample is None else len(sample)
        if items >= size:
            yield batch
            batch, items = [], 0
    if batch:
        yield batch


def _append(recipe: Recipe, progress: Progress, batches: Iterable[list[Numbered]]) -> None:
    with ExitStack() as stack:
        files = {name: stack.enter_context((recipe.folder / name).open("ab")) for name in progress.sizes}
        for name, file in files.items():
            file.truncate(progress.sizes[name])  # what a killed process appended behind its last commit
        due = monotonic() + COMMIT_SECONDS
        for numbered in batches:
            numbers, batch = zip(*numbered, strict=True)
            keys = np.array(numbers, np.int64).tobytes()
            for name, data in {**recipe.encode(batch, progress.pairs), KEYS: keys}.items():
                files[name].write(data)
                progress.sizes[name] += len(data)
            progress.pairs += len(batch)
            progress.unreadable += sum(sample is None for sample in batch)
            if monotonic() >= due:
                _commit(recipe.folder, progress, *files.values())
                due = monotonic() + COMMIT_SECONDS
        _commit(recipe.folder, progress, *files.values())


def _tidy(recipe: Recipe) -> None:
    for name in (PROGRESS, KEYS, *recipe.scratch):
        (recipe.folder / name).unlink(missing_ok=True)
