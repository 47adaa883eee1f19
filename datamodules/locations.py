"""Where data lie: files of patterns, the cache folder, and the members of tar shards, indexed once."""

import glob
import gzip
import hashlib
import json
import logging
import os
import re
import shutil
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from braceexpand import braceexpand
from numpy.typing import NDArray

from datamodules.packed_texts import PackedTexts

if TYPE_CHECKING:
    from hashlib import _Hash

logger = logging.getLogger(__name__)

_VERSION = 1  # of the cached files: raise it whenever they change meaning
_MEMBER = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_SMALL = 4096  # bytes: captions and labels enter the fingerprint by content, larger files by their size


def existing_file(path: str | Path) -> Path:
    """The file at a path.

    Raises:
        ValueError: there is none.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"{path} is a folder: give the file itself, or a pattern such as {file / '*.tar'}")
    if not file.is_file():
        raise ValueError(f"no file matches {path}: check the path, or set PROTOCLIP_DATA to the data folder")
    return file


def matching_files(patterns: str | Path | Sequence[str | Path]) -> list[Path]:
    """Files of one or more paths, globs and brace patterns (``x-{000..003}.tar``), in the order of their names.

    Raises:
        ValueError: a pattern matches nothing, or two patterns give the same file.
    """
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        literal = Path(pattern).expanduser()
        # A path that exists is taken as it is: its name may hold brackets or braces.
        words = [str(literal)] if literal.exists() else list(braceexpand(str(literal)))
        for word in words:
            found = [] if Path(word).exists() else glob.glob(word, recursive=True)  # noqa: PTH207 (may be absolute)
            files += [existing_file(name) for name in found or [word]]
    if not files:
        raise ValueError("no shards given: list their paths or a pattern such as FOLDER/*.tar")
    files.sort(key=lambda file: (file.name, str(file)))
    for one, other in pairwise(files):
        if one == other:
            raise ValueError(f"{one} is listed twice: let each pattern match other files")
    return files


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder for what is derived from the data: the argument, ``PROTOCLIP_CACHE`` or ``~/.cache/protoclip``.

    Raises:
        ValueError: it cannot be made.
    """
    folder = Path(cache_dir or os.environ.get("PROTOCLIP_CACHE") or "~/.cache/protoclip").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the cache folder {folder} ({error.strerror}): set PROTOCLIP_CACHE") from error
    return folder


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at ``path`` whole or not at all, also when several processes write it.

    Raises:
        ValueError: the folder cannot be written or is full.
    """
    # Not tempfile: its files are private to the user, and a cache may be shared by a group.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error}): set PROTOCLIP_CACHE to a folder with room") from error
    finally:
        temporary.unlink(missing_ok=True)


def _identity(files: Sequence[Path]) -> str:
    """Which files, as they are now. The whole path: shards of two corpora may agree in name, size and time."""
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([_VERSION, stats]).encode()).hexdigest()[:32]


def plain_tar(file: Path, folder: Path) -> Path:
    """The tar itself; of a ``.tar.gz`` its inflated copy in the cache folder, made where it is not there yet."""
    if file.name.endswith(".tar"):
        return file
    if not file.name.endswith(".tar.gz"):
        raise ValueError(f"{file} is not a shard: give .tar or .tar.gz files")
    path = folder / f"{file.name.removesuffix('.tar.gz')}-{_identity([file])}.tar"
    if path.exists():
        return path
    with file.open("rb") as raw:
        raw.seek(-4, os.SEEK_END)
        size = int.from_bytes(raw.read(4), "little")  # gzip's own note, modulo 4 GiB
    megabytes = file.stat().st_size / 1e6
    logger.info("inflating %s (%.1f MB, %.1f MB inflated if under 4 GiB) into %s", file, megabytes, size / 1e6, folder)
    with written_atomically(path) as target, gzip.open(file) as source:
        try:
            shutil.copyfileobj(source, target, 1 << 20)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{file} is damaged ({error}): fetch it again") from error
    return path


def shard_table(files: Sequence[Path], tars: Sequence[Path], folder: Path) -> dict[str, NDArray[Any]]:
    """The index of shards, from the cache folder or else built and put there.

    Args:
        files: The shards as given, whose paths, sizes and times of change identify the index.
        tars: The same, inflated.
        folder: Cache folder.

    Returns:
        shard [n], packed keys, extensions, fingerprint [], and members [m, 4]: sample, extension, offset, size.

    Raises:
        ValueError: a shard is damaged.
    """
    path = folder / f"index-{_identity(files)}.npz"
    try:
        with np.load(path, allow_pickle=False) as cached:
            return {name: cached[name] for name in cached.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent, or spoilt by a full disk: built again
        table = _build(tars, [file.name.removesuffix(".gz") for file in files])
    with written_atomically(path) as file:
        np.savez(file, allow_pickle=False, **table)
    logger.info("indexed %d samples of %d shards in %s", len(table["shard"]), len(files), path)
    return table


def _build(tars: Sequence[Path], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    keys: list[str] = []
    shard_of: list[int] = []
    extensions: dict[str, int] = {}
    members: list[NDArray[np.int64]] = []
    digest = hashlib.sha256()
    for shard, (tar, name) in enumerate(zip(tars, names, strict=True)):
        digest.update(json.dumps([name, tar.stat().st_size]).encode())
        found, rows = _scan(tar, name, extensions, digest)
        members.append(rows + np.array([len(keys), 0, 0, 0]))
        keys += found
        shard_of += [shard] * len(found)
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
    }


def _scan(tar: Path, name: str, extensions: dict[str, int], digest: "_Hash") -> tuple[list[str], NDArray[np.int64]]:
    """Keys of one shard and its members' rows; new extensions and small contents are added to the last two."""
    samples: dict[str, int] = {}
    rows: dict[tuple[int, int], tuple[int, int]] = {}
    try:
        with tarfile.open(tar, "r:") as opened:
            while (member := opened.next()) is not None:
                opened.members = []  # type: ignore[attr-defined]  # or it keeps a kilobyte per file
                parts = _MEMBER.fullmatch(member.name)
                if not member.isreg() or parts is None or _META.match(member.name):
                    continue
                place = (
                    samples.setdefault(parts[1], len(samples)),
                    extensions.setdefault(parts[2].lower(), len(extensions)),
                )
                if place in rows:
                    raise ValueError(f"{name} holds {member.name} twice: write the shard again")
                rows[place] = (member.offset_data, member.size)
                if member.size <= _SMALL and (content := opened.extractfile(member)) is not None:
                    digest.update(content.read())
            end = opened.offset
        # tarfile takes a damaged header for the end.
        with tar.open("rb") as raw:
            raw.seek(end)
            if any(raw.read(512)):
                raise tarfile.ReadError("bad header")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{name} is damaged ({error}): fetch it again") from error
    return list(samples), np.array([(*place, *extent) for place, extent in rows.items()], np.int64).reshape(-1, 4)
