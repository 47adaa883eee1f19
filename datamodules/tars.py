"""Tar shards read once, forwards: every sample before the first damage, and what is wrong is told, not raised.

A shard is a tar of files KEY.EXTENSION; the adjacent files of one key are a sample. Keys and extensions are
WebDataset's: a key ends at the first dot of the file name, extensions are lower case.
"""

import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from datamodules.sources import Fault

GZIP_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a damaged ``.gz`` raises."""

_MEMBER = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_CHUNK = 1 << 20  # bytes: what is read at once, and the largest header: a damaged one may ask for all memory


class TarSample(NamedTuple):
    """The adjacent files of one key."""

    key: str
    extents: dict[str, tuple[int, int]]
    """Offset and size of each file in the uncompressed tar, by extension."""
    data: dict[str, bytes]
    """The contents of the wanted files, by extension."""


def check_shard_name(path: Path) -> None:
    """Refuse what is neither ``.tar`` nor ``.tar.gz``.

    Raises:
        ValueError: it is not.
    """
    if not path.name.endswith((".tar", ".tar.gz")):
        raise ValueError(f"{path} is not a shard: give .tar or .tar.gz files")


def printable(name: str) -> str:
    """A name out of a tar for messages: in one line, with escapes for what cannot be printed."""
    return name if name.isprintable() else ascii(name)[1:-1]


def tar_samples(
    file: BinaryIO, name: str, *, wanted: Collection[str] = (), report: Callable[[Fault], None]
) -> Iterator[TarSample]:
    """The samples of a shard, in order.

    Of a key that comes again later and of an extension that a sample has twice the first is kept. The shard ends at its
    first damage, and the files before it are given. Files without an extension and WebDataset's ``__meta__`` are passed
    over.

    Args:
        file: The shard at its beginning, which is read forwards only: a pipe or ``gzip.open(...)`` will do.
        name: What faults call it.
        wanted: Extensions of the files to read; those of a plain file on disk that are not wanted cost no reading.
        report: Takes the faults ``duplicate_key``, ``damaged_shard`` and ``bad_gzip``.
    """
    forward = _Forward(file)
    seen: set[str] = set()
    sample, kept = TarSample("", {}, {}), False
    fault: Fault | None = None
    files = _files(forward, wanted)
    while True:
        try:
            key, extension, extent, content = next(files)
        except StopIteration:
            break
        except GZIP_DAMAGE as error:
            fault = Fault("bad_gzip", name, _damage(error))
            break
        except (tarfile.TarError, OSError) as error:
            fault = Fault("damaged_shard", name, _damage(error))
            break
        if key != sample.key:
            if kept:
                yield sample
            sample, kept = TarSample(key, {}, {}), key not in seen
            seen.add(key)
            if not kept:
                report(_duplicate(name, key))
        if not kept:
            continue
        if extension in sample.extents:
            report(_duplicate(name, f"{key}.{extension}"))
            continue
        sample.extents[extension] = extent
        if content is not None:
            sample.data[extension] = content
    if kept:
        yield sample
    if fault is not None:
        report(fault)


def _damage(error: Exception) -> str:
    return f"damaged ({' '.join(str(error).split())}): fetch it again"


def _duplicate(name: str, key: str) -> Fault:
    reason = "there twice, or its files are not adjacent, and the first is kept: write the shard again"
    return Fault("duplicate_key", f"{name}: {printable(key)}", reason)


def _files(forward: "_Forward", wanted: Collection[str]) -> Iterator[tuple[str, str, tuple[int, int], bytes | None]]:
    """Key, extension, extent and, where it is wanted, content of each file that is there to its last byte.

    Raises:
        tarfile.TarError: the tar is damaged.
        EOFError, zlib.error, OSError: as reading the file raises them.
    """
    # An empty tar for the state that headers need: TarFile.next takes a damaged header for the end of the tar.
    opened = tarfile.TarFile(fileobj=io.BytesIO(bytes(tarfile.BLOCKSIZE)))
    opened.fileobj = forward  # type: ignore[assignment]
    while (member := _header(opened)) is not None:
        parts, content = _MEMBER.fullmatch(member.name), None
        if not member.isreg() or member.issparse() or parts is None or _META.match(member.name):
            forward.skip(opened.offset)
            continue
        extension, extent = parts[2].lower(), (member.offset_data, member.size)
        if extension in wanted:
            content = forward.take(member.size)
        forward.skip(sum(extent))
        yield parts[1], extension, extent, content
        forward.skip(opened.offset)  # the padding, which the last file of a cut tar may lack
    forward.drain()


def _header(opened: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member, None at the end of the tar."""
    assert opened.fileobj is not None
    start = opened.fileobj.tell()
    try:
        member = tarfile.TarInfo.fromtarfile(opened)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
        if start == 0:
            raise
        return None  # some writers leave out the zeros
    except (ValueError, LookupError, ArithmeticError, RecursionError) as error:  # damage that tarfile does not expect
        raise tarfile.ReadError("invalid header") from error
    if min(member.size, opened.offset - member.offset_data) < 0:
        raise tarfile.ReadError("negative size")
    return member


class _Forward:
    """A file that is read forwards only, and on disk seeks over what is not read: what ``tarfile`` reads headers of."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        # To seek in an inflating file is to read it, and in a remote one another request.
        on_disk = isinstance(getattr(file, "raw", None), io.FileIO) and file.seekable()
        self._end = file.seek(0, os.SEEK_END) if on_disk else None
        if self._end is not None:
            file.seek(0)

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """A header's bytes, fewer at the end of the file."""
        if not 0 <= size <= _CHUNK:
            raise tarfile.ReadError("invalid header")
        data = self._file.read(size)
        while len(data) < size and (more := self._file.read(size - len(data))):  # a pipe may give less than it has
            data += more
        self._position += len(data)
        return data

    def take(self, size: int) -> bytes:
        """A file's bytes, all of them."""
        parts, missing = [], size
        while missing and (part := self.read(min(missing, _CHUNK))):
            parts.append(part)
            missing -= len(part)
        if missing:
            raise tarfile.ReadError("unexpected end of data")
        return b"".join(parts)

    def skip(self, position: int) -> None:
        """Go on at a position."""
        if position < self._position:
            raise tarfile.ReadError("invalid header")
        if self._end is None:
            while self._position < position and self.read(min(position - self._position, _CHUNK)):
                pass
        elif position <= self._end:
            self._file.seek(position)
            self._position = position
        if self._position < position:
            raise tarfile.ReadError("unexpected end of data")

    def drain(self) -> None:
        """Read a stream to its end: only there a damaged ``.gz`` is told, and a pipe's writer is content."""
        while self._end is None and self.read(_CHUNK):
            pass
