"""The index of tar shards: where every file of every sample lies, built once in several processes and cached."""

import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.fault_tally import FaultTally
from datamodules.locations import written_atomically
from datamodules.packed_texts import PackedTexts
from datamodules.sources import Fault
from datamodules.tars import GZIP_DAMAGE, check_shard_name, tar_samples

logger = logging.getLogger(__name__)

_COPY_VERSION = 1  # of the cached files: raise them whenever these change meaning
_INDEX_VERSION = 2
_CUT = ".cut.tar"
_SMALL = 4096  # bytes: captions and labels enter the fingerprint by content, larger files by their size


class _Shard(NamedTuple):
    """One shard's part of the index."""

    size: int
    keys: list[str]
    extensions: list[str]
    members: NDArray[np.int64]
    """[m, 4]: sample, extension, offset, size."""
    small: bytes
    """The contents of the small files, in order."""
    faults: list[Fault]


def _identity(files: Sequence[Path], version: int) -> str:
    """Which files, as they are now. The whole path: shards of two corpora may agree in name, size and time."""
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([version, stats]).encode()).hexdigest()[:32]


def plain_path(file: Path, folder: Path) -> Path:
    """The tar itself; for a ``.tar.gz`` where its inflated copy lies, or is to lie, in the cache folder.

    Raises:
        ValueError: it is neither ``.tar`` nor ``.tar.gz``.
    """
    check_shard_name(file)
    if file.name.endswith(".tar"):
        return file
    whole = folder / f"{file.name.removesuffix('.tar.gz')}-{_identity([file], _COPY_VERSION)}.tar"
    return cut if (cut := whole.with_suffix(_CUT)).exists() else whole


def shard_table(files: Sequence[Path], folder: Path) -> dict[str, NDArray[Any]]:
    """The index of shards, from the cache folder or else built and put there, beside the inflated copies.

    Args:
        files: The shards, whose paths, sizes and times of change identify the index.
        folder: Cache folder.

    Returns:
        shard [n], packed keys, extensions, fingerprint [], members [m, 4]: sample, extension, offset, size; and the
        faults as a :class:`FaultTally` in JSON.

    Raises:
        ValueError: the cache folder is full, or a shard cannot be opened.
    """
    path = folder / f"index-{_identity(files, _INDEX_VERSION)}.npz"
    tars = [plain_path(file, folder) for file in files]
    if all(tar.exists() for tar in tars):
        try:
            with np.load(path, allow_pickle=False) as cached:
                return {name: cached[name] for name in cached.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent, or spoilt by a full disk: built again
            pass
    for file, tar in zip(files, tars, strict=True):
        if not tar.exists():
            _tell_size(file, folder)
    table = _joined([file.name.removesuffix(".gz") for file in files], _scanned(files, tars))
    with written_atomically(path) as target:
        np.savez(target, allow_pickle=False, **table)
    logger.info("indexed %d samples of %d shards in %s", len(table["shard"]), len(files), path)
    return table


def _tell_size(file: Path, folder: Path) -> None:
    megabytes = file.stat().st_size / 1e6
    try:
        with file.open("rb") as raw:
            raw.seek(max(0, file.stat().st_size - 4))
            size = int.from_bytes(raw.read(4), "little") / 1e6  # gzip's own note, modulo 4 GiB
    except OSError:  # which is told when it is read
        return
    logger.info("inflating %s (%.1f MB, %.1f MB inflated if under 4 GiB) into %s", file, megabytes, size, folder)


def _scanned(files: Sequence[Path], tars: Sequence[Path]) -> Iterator[_Shard]:
    """Every shard, in order."""
    processes = min(os.cpu_count() or 1, len(files))
    if processes == 1:
        yield from map(_scan, files, tars)
        return
    with ProcessPoolExecutor(processes) as pool:
        for number, shard in enumerate(pool.map(_scan, files, tars), start=1):
            yield shard
            if number % max(1, len(files) // 10) == 0:
                logger.info("indexed %d of %d shards", number, len(files))


def _scan(file: Path, tar: Path) -> _Shard:
    """What one shard holds, up to its first damage."""
    try:
        return _read(file, tar)
    except OSError as error:
        raise ValueError(f"cannot read {file} ({error.strerror}): check its permissions") from error


def _read(file: Path, tar: Path) -> _Shard:
    if not tar.exists():
        tar = _inflate(file, tar)
    cut = tar != file and tar.name.endswith(_CUT)
    faults = [Fault("bad_gzip", file.name, "damaged, and read as far as it inflates: fetch it again")] if cut else []
    keys: list[str] = []
    extensions: dict[str, int] = {}
    members: list[tuple[int, int, int, int]] = []
    small: list[bytes] = []
    with tar.open("rb") as opened:
        for sample in tar_samples(opened, file.name, report=faults.append):
            for extension, (offset, size) in sample.extents.items():
                members.append((len(keys), extensions.setdefault(extension, len(extensions)), offset, size))
                if size <= _SMALL:
                    small.append(os.pread(opened.fileno(), size, offset))
            keys.append(sample.key)
    if cut:  # where it ends is no second damage
        faults = [fault for fault in faults if fault.kind != "damaged_shard"]
    rows = np.array(members, np.int64).reshape(-1, 4)
    return _Shard(tar.stat().st_size, keys, list(extensions), rows, b"".join(small), faults)


def _inflate(file: Path, tar: Path) -> Path:
    """Write a copy; of a damaged ``.gz`` what comes before the damage, under a name that says so."""
    try:
        with gzip.open(file) as source, written_atomically(tar) as target:
            try:
                shutil.copyfileobj(source, target, 1 << 20)
            except GZIP_DAMAGE as error:
                raise EOFError from error  # one of them is an OSError, which here means that the disk is full
    except EOFError:
        tar = tar.with_suffix(_CUT)
        with gzip.open(file) as source, written_atomically(tar) as target, suppress(*GZIP_DAMAGE):
            while data := source.read1(io.DEFAULT_BUFFER_SIZE):  # a larger piece is lost whole
                target.write(data)
    return tar


def _joined(names: Sequence[str], shards: Iterable[_Shard]) -> dict[str, NDArray[Any]]:
    keys: list[str] = []
    shard_of: list[int] = []
    extensions: dict[str, int] = {}
    members: list[NDArray[np.int64]] = []
    tally = FaultTally()
    digest = hashlib.sha256()
    for number, (name, shard) in enumerate(zip(names, shards, strict=True)):
        digest.update(json.dumps([name, shard.size]).encode() + shard.small)
        renumbered = np.array([extensions.setdefault(found, len(extensions)) for found in shard.extensions], np.int64)
        shard.members[:, 1] = renumbered[shard.members[:, 1]]
        shard.members[:, 0] += len(keys)
        members.append(shard.members)
        keys += shard.keys
        shard_of += [number] * len(shard.keys)
        for fault in shard.faults:
            tally.add(fault)
    packed, table = PackedTexts.pack(keys), np.concatenate(members)
    for part in (packed.data, packed.bounds.tobytes(), json.dumps(list(extensions)).encode(), table.tobytes()):
        digest.update(part)
    return {
        "keys": np.frombuffer(packed.data, np.uint8),
        "key_bounds": packed.bounds,
        "shard": np.array(shard_of, np.int32),
        "extensions": np.array(list(extensions), np.str_),
        "members": table,
        "fingerprint": np.array(digest.hexdigest()),
        "faults": np.array(tally.to_json()),
    }
