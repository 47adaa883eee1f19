"""Shards on the local disk or elsewhere: what patterns stand for, and how a shard is opened to be read forwards."""

import gzip
import io
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from braceexpand import braceexpand

from datamodules.locations import matching_files
from datamodules.sources import Fault

_PIPE = "pipe:"
_PATIENCE = 5.0  # seconds for a command whose output nobody reads any longer
_GZIP = b"\x1f\x8b"
_TAR = re.compile(r"[^/\s'\"=?&]+\.tar(?:\.gz)?\b")


def shard_urls(shards: str | Path | Sequence[str | Path]) -> list[str]:
    """Shards of one or more paths, globs, brace patterns, ``pipe:`` commands and URLs that fsspec opens.

    Local ones come first, in the order of their names; one that a brace pattern names need not be there yet.

    Raises:
        ValueError: nothing on the local disk matches, a shard is listed twice, or a URL has a ``*``.
    """
    given = [str(shard) for shard in ([shards] if isinstance(shards, str | Path) else shards)]
    local = [pattern for pattern in given if not _is_url(pattern)]
    missing: list[Fault] = []
    files = matching_files(local, report=missing.append) if local or not given else []
    files = sorted([*files, *(Path(fault.place) for fault in missing)], key=lambda file: (file.name, str(file)))
    urls = [str(file.absolute()) for file in files]
    for pattern in given:
        if _is_url(pattern):
            if "*" in pattern and not pattern.startswith(_PIPE):
                raise ValueError(f"{pattern}: a URL is not searched: name its shards by braces, as {{00000..00331}}")
            urls += braceexpand(pattern, escape=False)
    if len(set(urls)) < len(urls):
        twice = next(url for url in urls if urls.count(url) > 1)
        raise ValueError(f"{twice} is listed twice: let each pattern match other shards")
    return urls


def shard_name(url: str) -> str:
    """The file name of a shard, by which its samples are called wherever it lies; of a command the last tar in it."""
    names: list[str] = _TAR.findall(url)
    return names[-1] if names else url.rpartition("/")[2]


def open_shard(url: str) -> BinaryIO:
    """A shard's bytes, inflated where they are compressed.

    Raises:
        OSError: it cannot be opened; a later one from reading: it cannot be read to its end.
        ValueError: a package is missing for its protocol.
    """
    file = _open(url)
    if file.peek(2)[:2] != _GZIP and not (url.endswith(".gz") and not url.startswith(_PIPE)):
        return file
    inflated = gzip.GzipFile(fileobj=file)
    inflated.myfileobj = file  # type: ignore[assignment]  # it is closed with the other
    return cast(BinaryIO, inflated)


def _is_url(shard: str) -> bool:
    return shard.startswith(_PIPE) or "://" in shard


def _open(url: str) -> io.BufferedReader:
    if url.startswith(_PIPE):
        return io.BufferedReader(_Pipe(url.removeprefix(_PIPE)))
    if not _is_url(url):
        return Path(url).open("rb")
    try:
        # Web servers need not know ranges, nor the length: what they send is read as it comes
        options = {"block_size": 0} if url.startswith(("http://", "https://")) else {}
        return io.BufferedReader(fsspec.open(url, "rb", **options).open())
    except (ImportError, ValueError) as error:  # the package of a protocol, or the protocol, is not there
        raise ValueError(f"{url} cannot be opened ({error}): install what its protocol needs") from error


class _Pipe(io.RawIOBase):
    """What a shell command writes; a command that fails is an OSError at the end of the file."""

    def __init__(self, command: str) -> None:
        # The shell is what users write such URLs for
        self._process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, bufsize=0)
        self._command = command

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        assert self._process.stdout is not None
        data = self._process.stdout.read(len(buffer))
        if not data and (code := self._process.wait()):
            raise OSError(f"{self._command} ended with exit code {code}")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Leave off; a command that still writes ends by it."""
        if not self.closed:
            assert self._process.stdout is not None
            self._process.stdout.close()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:  # it does something else than write
                self._process.kill()
                self._process.wait()
        super().close()
