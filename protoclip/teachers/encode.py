"""Encodes a corpus into a teacher's cache; killed at any moment, it goes on after the last batch that is on the disk.

Until the end the folder holds ``features.raw`` and ``counts.raw``, to which batches are appended, and
``progress.json``, which says how much of them counts. Batches are made of whole pairs from the first one on, so that
they are the same after an interruption, and so are the bytes of the result.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from protoclip.files import replacing
from protoclip.teachers.cache import FEATURES, FIRST, MEND, SIDECAR, TeacherCache, read_facts
from protoclip.teachers.pca import fit_pca

Sample = Sequence[Any] | None
"""The captions of a pair, or its picture alone; None where it cannot be read."""

RAW, COUNTS, PROGRESS = "features.raw", "counts.raw", "progress.json"
COMMIT_SECONDS = 2.0
"""Work that a kill may cost: bringing every batch to the disk would hold up a fast device."""
CHUNK = 8192
LIBRARIES = ("numpy", "open_clip_torch", "timm", "torch", "transformers")


@dataclass
class Progress:
    """What is on the disk of an unfinished cache.

    Attributes:
        encoder: see ``TeacherCache.identity``, as the next two.
        dims: likewise.
        corpus: likewise.
        raw_dim: width of the features as the model gives them.
        pairs: encoded so far.
        rows: of them.
        unreadable: pairs among them.
    """

    encoder: dict[str, Any]
    dims: int | None
    corpus: str
    raw_dim: int
    pairs: int = 0
    rows: int = 0
    unreadable: int = 0


def encode_corpus(
    cache: TeacherCache, samples: Callable[[int], Iterable[Sample]], *, corpus: str, pairs: int, batch_size: int
) -> bool:
    """Make the cache of a corpus, or finish it.

    Args:
        cache: where to, and of what encoder.
        samples: the corpus from a pair on, in order.
        corpus: its fingerprint.
        pairs: its size.
        batch_size: rows of a batch, which is closed by the pair that fills it.

    Returns:
        False where the cache is finished already.

    Raises:
        ValueError: the folder holds another cache or is being written, more dims than the features have, a model that
            cannot be loaded, or features that are not finite.
    """
    folder = Path(cache.folder)
    if not (folder / SIDECAR).exists():
        _check_dims(cache)  # loads the model: what cannot be encoded leaves no folder
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if (folder / SIDECAR).exists():
            cache.check(corpus)
            _remove(folder)
            return False
        progress = _begin(cache, folder, corpus)
        if progress.pairs < pairs:
            _append(cache, folder, progress, _batches(samples(progress.pairs), batch_size))
        assert progress.pairs == pairs, f"the corpus gave {progress.pairs} of {pairs} pairs"
        readable = progress.rows - progress.unreadable
        if cache.dims is not None and cache.dims > readable:
            told = f"teachers.{cache.name}.dims={cache.dims}: there are {readable} rows"
            raise ValueError(f"{told}: remove {folder}, and set that or less, or null")
        _finish(folder, progress, cache.name)
        return True


def _check_dims(cache: TeacherCache) -> None:
    width = cache.encoder.dim
    if cache.dims is not None and cache.dims > width:
        raise ValueError(f"teachers.{cache.name}.dims={cache.dims}: the model has {width}: set that or less, or null")


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


def _begin(cache: TeacherCache, folder: Path, corpus: str) -> Progress:
    """What there is of the cache, or a new one."""
    identity = cache.identity(corpus)
    facts = read_facts(folder / PROGRESS) if (folder / PROGRESS).exists() else None
    if facts is not None:
        cache.refuse_other(facts, identity)
        progress = Progress(**facts)
        sizes = {RAW: progress.rows * progress.raw_dim * 4, COUNTS: progress.pairs * 8}
        if any(not (folder / name).exists() or (folder / name).stat().st_size < size for name, size in sizes.items()):
            raise ValueError(f"{folder} is damaged: remove it and {MEND}")
        return progress
    for name in (RAW, COUNTS):
        (folder / name).write_bytes(b"")
    progress = Progress(**identity, raw_dim=cache.encoder.dim)
    _commit(folder, progress)
    return progress


def _commit(folder: Path, progress: Progress, *files: BinaryIO) -> None:
    """Let count what was appended to the files, once it is on the disk."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    with replacing(folder / PROGRESS) as file:
        file.write(json.dumps(asdict(progress)).encode())


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    rows = 0
    for sample in samples:
        batch.append(sample)
        rows += 1 if sample is None else len(sample)
        if rows >= size:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


def _append(cache: TeacherCache, folder: Path, progress: Progress, batches: Iterable[list[Sample]]) -> None:
    with (folder / RAW).open("ab") as raw, (folder / COUNTS).open("ab") as counts:
        raw.truncate(progress.rows * progress.raw_dim * 4)  # what a killed process appended behind its last commit
        counts.truncate(progress.pairs * 8)
        due = monotonic() + COMMIT_SECONDS
        for batch in batches:
            sizes = np.array([1 if sample is None else len(sample) for sample in batch], dtype=np.int64)
            rows = _encode(cache, batch, sizes, progress)
            raw.write(rows.tobytes())
            counts.write(sizes.tobytes())
            progress.pairs += len(batch)
            progress.rows += len(rows)
            progress.unreadable += sum(sample is None for sample in batch)
            if monotonic() >= due:
                _commit(folder, progress, raw, counts)
                due = monotonic() + COMMIT_SECONDS
        _commit(folder, progress, raw, counts)


def _encode(
    cache: TeacherCache, batch: Sequence[Sample], sizes: NDArray[np.int64], progress: Progress
) -> NDArray[np.float32]:
    """Rows of the pairs of a batch, zero where one cannot be read."""
    rows = np.zeros((sizes.sum(), progress.raw_dim), dtype=np.float32)
    items = [item for sample in batch if sample is not None for item in sample]
    if items:
        features = cache.encoder(items).numpy()
        if features.shape[1] != progress.raw_dim or not np.isfinite(features).all():
            raise ValueError(
                f"the teacher {cache.name} gave features that are not finite, or of another width than before, at "
                f"pairs {progress.pairs} to {progress.pairs + len(batch) - 1}: use other weights, remove {cache.folder}"
            )
        rows[np.repeat([sample is not None for sample in batch], sizes)] = features
    return rows


def _finish(folder: Path, progress: Progress, name: str) -> None:
    """Project what was appended and write the three files, the sidecar last."""
    raw = np.memmap(folder / RAW, np.float32, "r", shape=(progress.rows, progress.raw_dim))
    chunks = [slice(start, start + CHUNK) for start in range(0, len(raw), CHUNK)]
    pca = None
    if progress.dims is not None:
        readable = (raw[chunk][raw[chunk].any(1)] for chunk in chunks)
        pca = fit_pca(readable, progress.raw_dim, progress.dims)
    dim = progress.dims or progress.raw_dim
    with replacing(folder / FEATURES) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(raw), dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            rows = np.asarray(raw[chunk])
            file.write((rows if pca is None else pca(rows) * rows.any(1, keepdims=True)).tobytes())
    with (folder / FEATURES).open("rb") as written:
        digest = file_digest(written, "sha256").hexdigest()
    counts = np.fromfile(folder / COUNTS, np.int64, progress.pairs)
    with replacing(folder / FIRST) as file:
        np.lib.format.write_array(file, np.concatenate([[0], counts.cumsum()]), allow_pickle=False)
    facts = {"name": name, **asdict(progress), "dim": dim, "sha256": digest}
    facts |= {"explained_variance": 1.0 if pca is None else pca.explained_variance}
    facts |= {"versions": {library: version(library) for library in LIBRARIES}}
    with replacing(folder / SIDECAR) as file:
        file.write(json.dumps(facts, indent=2).encode() + b"\n")
    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove what only an unfinished cache needs."""
    for name in (PROGRESS, RAW, COUNTS):
        (folder / name).unlink(missing_ok=True)
