"""Image-text pairs from a table of paths and captions (CSV, TSV, JSON Lines, Parquet)."""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from datamodules.array_file import ArrayFile, ArrayWriter, written_arrays
from datamodules.columns import read_numbers
from datamodules.csv_columns import IrregularTable
from datamodules.grouping import StoredPairs, store_pairs, store_plain_pairs
from datamodules.locations import cache_folder, existing_file
from datamodules.pictures import decode_picture, read_picture
from datamodules.sources import FaultKind, PairSource
from datamodules.tables import plain_table, read_rows

logger = logging.getLogger(__name__)

_VERSION = 3  # of the cached files: raise it whenever they change meaning


class ManifestPairs(PairSource):
    """Pairs listed in a manifest; the column names' defaults are open_clip's.

    Rows of one image are one sample with several captions, images in the order of their first row. In JSON Lines and
    Parquet a caption cell may also be a list. Captions that are blank or not UTF-8 are dropped, and with a warning
    rows left without any. CSV and TSV quote as usual (a doubled ``"`` inside a quoted field), so write other manifests
    with a CSV library.

    The table is read once. What is made of it is kept in the cache folder under the manifest's path, size and time of
    change, and is read from there a pair at a time, so that a manifest costs no memory. Of a CSV or TSV without any
    quote, and without a column of summaries, that is where its rows are: it must stay as it is while it is in use.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, with a header or field names.
        image_key: Column of image paths, relative to the manifest's folder or absolute.
        caption_key: Column of captions.
        summary_key: Column of summaries, where there is one; a sample's is the first of its rows, or else its caption.
        separator: Of a CSV or TSV, where it is not what the file's name says: one character.
        images_root: Folder of relative image paths, instead of the manifest's.
        cache_dir: Folder for what is made of it; default ``PROTOCLIP_CACHE`` or ``~/.cache/protoclip``.

    Attributes:
        fingerprint: SHA-256 of the options that select from the manifest and of the XXH3-128 of its bytes.
        faults: rows that are left out.

    Raises:
        ValueError: the manifest is missing, damaged or empty, or has no such column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image_key: str = "filepath",
        caption_key: str = "title",
        summary_key: str | None = None,
        separator: str | None = None,
        images_root: str | Path | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        file = existing_file(path)
        self._file, self._image_key, self._separator = file, image_key, separator
        self._root = Path(images_root).expanduser() if images_root is not None else file.parent
        selected = [image_key, caption_key] + ([] if summary_key is None else [summary_key])
        made = _opened(file, selected, separator, cache_folder(cache_dir))
        self._pairs = StoredPairs(made)
        self._summarised = summary_key is not None
        self.fingerprint = made.facts["fingerprint"]
        self.faults: dict[FaultKind, int] = made.facts["faults"]
        if dropped := sum(self.faults.values()):
            logger.warning("%s: %d rows have no image path, or no caption in UTF-8, and are left out", file, dropped)

    def __len__(self) -> int:
        return len(self._pairs)

    def key(self, index: int) -> str:
        """The path of its picture, as the manifest has it."""
        return self._pairs.path(index)

    def image(self, index: int) -> Tensor:
        """The RGB picture of a sample.

        Raises:
            UnreadableSample: it is missing or broken.
        """
        return decode_picture(self.encoded(index), str(self.file(index)))

    def file(self, index: int) -> Path:
        """Where the picture is."""
        return self._root / self._pairs.path(index)

    def encoded(self, index: int) -> bytes:
        """The picture's file.

        Raises:
            UnreadableSample: it is missing.
        """
        return read_picture(self.file(index), "check the manifest or images_root")

    def captions(self, index: int) -> list[str]:
        """All captions of a sample, in the order of the rows."""
        return self._pairs.captions(index)

    @property
    def caption_count(self) -> int:
        """Captions of all samples."""
        return self._pairs.caption_count

    def caption_row(self, index: int, number: int) -> int:
        """Which of all captions a sample's so many-th is, counted from 0."""
        return self._pairs.first(index)[0] + number

    def numbers(self, field: str) -> NDArray[np.float64]:
        """A column of the manifest, read anew: the highest of a sample's rows [len(self)], NaN where it is no number.

        Raises:
            ValueError: there is no such column.
        """
        keys = [self.key(index) for index in range(len(self))]
        numbers = read_numbers(self._file, self._image_key, field, self._separator)
        return np.asarray(numbers.reindex(keys), np.float64)

    def summary(self, index: int) -> str:
        """The summary of a sample.

        Raises:
            ValueError: the manifest is read without a column of them.
        """
        if not self._summarised:
            raise ValueError(
                "no column of the manifest has summaries: set data.train.summary_key, "
                "or write them by protoclip summarise and add summariser=NAME"
            )
        return self._pairs.summary(index)

    def label(self, index: int) -> int:
        """-1: a manifest has no classes."""
        return -1


def _opened(file: Path, selected: list[str], separator: str | None, folder: Path) -> ArrayFile:
    """What is made of a table, from the cache folder or else made and put there."""
    stat = file.stat()
    identity = [_VERSION, str(file.absolute()), stat.st_size, stat.st_mtime_ns, selected, separator]
    cached = folder / f"manifest-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.bin"
    try:
        return ArrayFile(cached)
    except ValueError:  # absent or damaged: made again
        pass
    number = _make(cached, file, selected, separator)
    logger.info("%s: %d pairs are kept in %s (%.1f MB)", file, number, cached, cached.stat().st_size / 1e6)
    return ArrayFile(cached)


def _make(cached: Path, file: Path, selected: list[str], separator: str | None) -> int:
    # The bytes and what selects from them, never a path: moving the folder changes nothing.
    digest = hashlib.sha256(json.dumps([*selected[:2], separator, *selected[2:]]).encode())
    with ThreadPoolExecutor(1) as beside:
        content = beside.submit(_hashed, file)
        for store in (_store_plain, partial(_store_rows, quick=True), partial(_store_rows, quick=False)):
            with suppress(IrregularTable), written_arrays(cached) as writer:
                number, faults = store(writer, file, selected, separator)
                if number == 0:
                    raise ValueError(f"{file} holds no pair: it needs rows with {selected[0]!r} and {selected[1]!r}")
                digest.update(content.result())
                writer.facts |= {"fingerprint": digest.hexdigest(), "faults": faults}
                break
    return number


def _store_plain(
    writer: ArrayWriter, file: Path, selected: list[str], separator: str | None
) -> tuple[int, dict[FaultKind, int]]:
    return store_plain_pairs(plain_table(file, selected, separator), writer)


def _store_rows(
    writer: ArrayWriter, file: Path, selected: list[str], separator: str | None, *, quick: bool
) -> tuple[int, dict[FaultKind, int]]:
    return store_pairs(read_rows(file, selected, separator, quick=quick), writer)


def _hashed(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, xxhash.xxh3_128).digest()
