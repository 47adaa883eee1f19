"""Where data lie: files of patterns, and the cache folder."""

import glob
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from braceexpand import braceexpand

from datamodules.sources import Fault


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


def matching_files(
    patterns: str | Path | Sequence[str | Path], *, report: Callable[[Fault], None] | None = None
) -> list[Path]:
    """Files of one or more paths, globs and brace patterns (``x-{000..003}.tar``), in the order of their names.

    Args:
        patterns: One or several.
        report: Takes the fault ``missing_shard`` for each path that is not there, as long as there is one; without it
            that is an error.

    Raises:
        ValueError: a glob matches nothing, nothing is there, or two patterns give the same file.
    """
    files: list[Path] = []
    missing: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        literal = Path(pattern).expanduser()
        # A path that exists is taken as it is: its name may hold brackets or braces.
        words = [str(literal)] if literal.exists() else list(braceexpand(str(literal)))
        for word in words:
            found = [] if Path(word).exists() else glob.glob(word, recursive=True)  # noqa: PTH207 (may be absolute)
            if report is None or found or Path(word).exists() or glob.has_magic(word):
                files += [existing_file(name) for name in found or [word]]
            else:
                missing.append(Path(word))
    if not files:
        if missing:
            existing_file(missing[0])
        raise ValueError("no shards given: list their paths or a pattern such as FOLDER/*.tar")
    files.sort(key=lambda file: (file.name, str(file)))
    for one, other in pairwise(files):
        if one == other:
            raise ValueError(f"{one} is listed twice: let each pattern match other files")
    for file in missing:
        assert report is not None
        report(Fault("missing_shard", str(file), "there is no such file: bring it back"))
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
