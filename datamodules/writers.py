"""Corpora to disk, in the layouts that this project and others read. The same pairs give the same bytes."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow
import pyarrow.parquet
from webdataset import TarWriter

IMAGES = "images"
"""The folder of a manifest's pictures."""

_ROWS = 10_000  # of a group in Parquet
_SEPARATORS = {"csv": ",", "tsv": "\t"}


class WrittenPair(NamedTuple):
    """A pair as it is written."""

    picture: bytes
    """A whole JPEG, PNG or WebP file."""
    ending: str
    """Of its name: ``jpg``, ``png`` or ``webp``."""
    captions: Sequence[str]
    fields: Mapping[str, Any]
    """What else is known of it, which can be written as JSON."""
    path: Path | None = None
    """Of a picture that a manifest shall name where it is, instead of a copy."""


class PairWriter(ABC):
    """Writes pairs into a folder, one after the other; a context that closes its files.

    Args:
        folder: where, which is there.
        per_shard: pairs of a shard, or of a sub-folder.
    """

    def __init__(self, folder: Path, per_shard: int) -> None:
        self.folder = folder
        self._per_shard = per_shard
        self._digits = len(str(per_shard - 1))
        self._written = 0
        self._files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def write(self, pair: WrittenPair) -> None:
        """Write the next pair."""
        shard, row = divmod(self._written, self._per_shard)
        if row == 0:
            self.begin(f"{shard:05d}")
        self.add(f"{shard:05d}", f"{shard:05d}{row:0{self._digits}d}", pair)
        self._written += 1

    @abstractmethod
    def begin(self, shard: str) -> None:
        """Begin a shard."""

    @abstractmethod
    def add(self, shard: str, key: str, pair: WrittenPair) -> None:
        """Write a pair under its key, which begins with the shard's number, as img2dataset's do."""


class ShardWriter(PairWriter):
    """img2dataset's shards: 00000.tar with KEY.jpg, KEY.txt (one caption a line) and KEY.json."""

    def begin(self, shard: str) -> None:
        """Begin the next tar."""
        self._files.close()
        file = self._files.enter_context((self.folder / f"{shard}.tar").open("wb"))
        self._tar = self._files.enter_context(TarWriter(file, encoder=False, mtime=0))

    def add(self, shard: str, key: str, pair: WrittenPair) -> None:
        """Write a pair."""
        self._tar.write({"__key__": key, **_members(key, pair)})


class FolderWriter(PairWriter):
    """img2dataset's files: 00000/KEY.jpg, 00000/KEY.txt (one caption a line) and 00000/KEY.json."""

    def begin(self, shard: str) -> None:
        """Begin the next sub-folder."""
        (self.folder / shard).mkdir()

    def add(self, shard: str, key: str, pair: WrittenPair) -> None:
        """Write a pair."""
        for ending, content in _members(key, pair).items():
            (self.folder / shard / f"{key}.{ending}").write_bytes(content)


class ManifestWriter(PairWriter):
    """A table with the columns filepath and title, and the pictures beside it that are not elsewhere already."""

    def begin(self, shard: str) -> None:
        """Nothing: a sub-folder is made with its first picture."""

    def add(self, shard: str, key: str, pair: WrittenPair) -> None:
        """Write a pair."""
        path = pair.path
        if path is None:
            path = Path(IMAGES, shard, f"{key}.{pair.ending}")
            (self.folder / path.parent).mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(pair.picture)
        self.row(path.as_posix(), pair.captions)

    @abstractmethod
    def row(self, path: str, captions: Sequence[str]) -> None:
        """Write what the table says of a pair."""


class TextTableWriter(ManifestWriter):
    """pairs.csv or pairs.tsv with a row for each caption; arguments as of ``PairWriter``, and its ending."""

    def __init__(self, folder: Path, per_shard: int, ending: str) -> None:
        super().__init__(folder, per_shard)
        file = (folder / f"pairs.{ending}").open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._table = csv.writer(self._files.enter_context(file), delimiter=_SEPARATORS[ending], lineterminator="\n")
        self._table.writerow(["filepath", "title"])

    def row(self, path: str, captions: Sequence[str]) -> None:
        """Write a row for each caption."""
        self._table.writerows([path, caption] for caption in captions)


class JsonLinesWriter(ManifestWriter):
    """pairs.jsonl with a line for each pair; several captions are a list."""

    def __init__(self, folder: Path, per_shard: int) -> None:
        super().__init__(folder, per_shard)
        self._file = self._files.enter_context((folder / "pairs.jsonl").open("w", encoding="utf-8"))

    def row(self, path: str, captions: Sequence[str]) -> None:
        """Write a line."""
        self._file.write(json.dumps({"filepath": path, "title": _one_or_all(captions)}) + "\n")


class ParquetWriter(ManifestWriter):
    """pairs.parquet with a row for each pair, whose title is a list."""

    _SCHEMA = pyarrow.schema([("filepath", pyarrow.string()), ("title", pyarrow.list_(pyarrow.string()))])

    def __init__(self, folder: Path, per_shard: int) -> None:
        super().__init__(folder, per_shard)
        self._table = self._files.enter_context(pyarrow.parquet.ParquetWriter(folder / "pairs.parquet", self._SCHEMA))
        self._files.callback(self._flush)
        self._rows: list[dict[str, Any]] = []

    def row(self, path: str, captions: Sequence[str]) -> None:
        """Write a row."""
        self._rows.append({"filepath": path, "title": list(captions)})
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._table.write_table(pyarrow.Table.from_pylist(self._rows, self._SCHEMA))
        self._rows.clear()


def _members(key: str, pair: WrittenPair) -> dict[str, bytes]:
    """Contents of the files of a sample by ending."""
    fields = {**pair.fields, "key": key, "caption": _one_or_all(pair.captions)}
    lines = [" ".join(caption.split()) for caption in pair.captions]  # a line break would make two captions of one
    return {pair.ending: pair.picture, "txt": "\n".join(lines).encode(), "json": json.dumps(fields).encode()}


def _one_or_all(captions: Sequence[str]) -> str | list[str]:
    return captions[0] if len(captions) == 1 else list(captions)
