"""Image-text pairs from a table of paths and captions (CSV, TSV, JSON Lines, Parquet); class names from a list."""

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.typing import NDArray
from torch import Tensor

from datamodules.columns import read_numbers
from datamodules.locations import PackedTexts, existing_file
from datamodules.pictures import decode_picture
from datamodules.sources import PairSource, UnreadableSample

logger = logging.getLogger(__name__)

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_UNDECODED = re.compile("[\ud800-\udfff]")  # what is not UTF-8, read with errors="surrogateescape"


class ManifestPairs(PairSource):
    """Pairs listed in a manifest; the column names' defaults are open_clip's.

    Rows of one image are one sample with several captions, images in the order of their first row. In JSON Lines and
    Parquet a caption cell may also be a list. Captions that are blank or not UTF-8 are dropped, and with a warning
    rows left without any. CSV and TSV quote as usual (a doubled ``"`` inside a quoted field), so write other manifests
    with a CSV library.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, with a header or field names.
        image_key: Column of image paths, relative to the manifest's folder or absolute.
        caption_key: Column of captions.
        summary_key: Column of summaries, where there is one; a sample's is the first of its rows, or else its caption.
        separator: Of a CSV or TSV, where it is not what the file's name says: one character.
        images_root: Folder of relative image paths, instead of the manifest's.

    Attributes:
        fingerprint: SHA-256 of the manifest's bytes and of the options that select from them.

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
    ) -> None:
        file = existing_file(path)
        self._file, self._image_key, self._separator = file, image_key, separator
        self._root = Path(images_root).expanduser() if images_root is not None else file.parent
        selected = [image_key, caption_key] + ([] if summary_key is None else [summary_key])
        frame = _read_table(file, selected, separator)
        pairs = _group(file, frame[image_key].tolist(), frame[caption_key].tolist())
        if not pairs:
            raise ValueError(f"{file} holds no pair: it needs rows with {image_key!r} and {caption_key!r}")
        self._summaries: PackedTexts | None = None
        if summary_key is not None:
            summaries = _first_summaries(file, frame[image_key].tolist(), frame[summary_key].tolist())
            self._summaries = PackedTexts.pack(summaries.get(path, captions[0]) for path, captions in pairs.items())
        self._paths = PackedTexts.pack(pairs)
        self._captions = PackedTexts.pack(caption for captions in pairs.values() for caption in captions)
        self._first = np.cumsum([0, *map(len, pairs.values())])
        # The bytes and what selects from them, never a path: moving the folder changes nothing.
        digest = hashlib.sha256(json.dumps([*selected[:2], separator, *selected[2:]]).encode())
        with file.open("rb") as manifest:
            digest.update(hashlib.file_digest(manifest, "sha256").digest())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        """The path of its picture, as the manifest has it."""
        return self._paths[index]

    def image(self, index: int) -> Tensor:
        """The RGB picture of a sample.

        Raises:
            UnreadableSample: it is missing or broken.
        """
        return decode_picture(self.encoded(index), str(self.file(index)))

    def file(self, index: int) -> Path:
        """Where the picture is."""
        return self._root / self._paths[index]

    def encoded(self, index: int) -> bytes:
        """The picture's file.

        Raises:
            UnreadableSample: it is missing.
        """
        path = self.file(index)
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:  # a ValueError: a path that no file can have, such as one with a NUL
            reason = error.strerror if isinstance(error, OSError) else str(error)
            message = f"cannot read {path} ({reason}): check the manifest or images_root"
            raise UnreadableSample(message, "missing_file") from error

    def captions(self, index: int) -> list[str]:
        """All captions of a sample, in the order of the rows."""
        return [self._captions[row] for row in range(self._first[index], self._first[index + 1])]

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
        if self._summaries is None:
            raise ValueError(
                "no column of the manifest has summaries: set data.train.summary_key, "
                "or write them by protoclip summarise and add summariser=NAME"
            )
        return self._summaries[index]

    def label(self, index: int) -> int:
        """-1: a manifest has no classes."""
        return -1


def _group(file: Path, paths: list[Any], cells: list[Any]) -> dict[str, list[str]]:
    """Captions by image path, in the order of first appearance."""
    pairs: dict[str, list[str]] = {}
    dropped: list[int] = []
    for row, (path, cell) in enumerate(zip(paths, cells, strict=True), start=1):
        # A missing value is None, or NaN once pandas has held it.
        texts = list(cell) if isinstance(cell, list | np.ndarray) else [cell]
        texts = [text for text in texts if text is not None and text == text]  # noqa: PLR0124 (NaN is not itself)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{file}: row {row}: a caption is a text or a list of texts, found {texts[0]!r:.40}")
        texts = [text for text in texts if text.strip() and not _UNDECODED.search(text)]
        if not isinstance(path, str) or not path.strip() or not texts:
            dropped.append(row)
            continue
        pairs.setdefault(path, []).extend(texts)
    if dropped:
        logger.warning("%s: %d rows have no image path, or no caption in UTF-8, and are left out", file, len(dropped))
    return pairs


def _first_summaries(file: Path, paths: list[Any], cells: list[Any]) -> dict[str, str]:
    """The first summary of each image path that has one."""
    summaries: dict[str, str] = {}
    for row, (path, cell) in enumerate(zip(paths, cells, strict=True), start=1):
        if cell is None or cell != cell:  # noqa: PLR0124 (NaN is not itself)
            continue
        if not isinstance(cell, str):
            raise ValueError(f"{file}: row {row}: a summary is one text, found {cell!r:.40}: leave summary_key out")
        if cell.strip() and not _UNDECODED.search(cell):
            summaries.setdefault(path, cell)
    return summaries


def _read_table(file: Path, keys: list[str], separator: str | None) -> pd.DataFrame:
    suffix = file.suffix.lower()
    if suffix in _SEPARATORS:
        return _read_csv(file, keys, _SEPARATORS[suffix] if separator is None else separator)
    if suffix not in {".jsonl", ".parquet"}:
        raise ValueError(f"{file}: a manifest is .csv, .tsv, .jsonl or .parquet")
    if separator is not None:
        raise ValueError(f"{file}: separator is for .csv and .tsv, leave it out")
    return _read_jsonl(file, keys) if suffix == ".jsonl" else _read_parquet(file, keys)


def _read_csv(file: Path, keys: list[str], separator: str) -> pd.DataFrame:
    separator = separator.replace("\\t", "\t")  # as a shell or an unquoted YAML scalar gives it
    if len(separator) != 1:
        raise ValueError(f"separator={separator!r}: give one character, such as a tab")
    try:
        with warnings.catch_warnings():
            # Rows longer than the header are captions with a bare separator: pandas would shift or cut them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                file,
                sep=separator,
                dtype=object,
                na_filter=False,
                index_col=False,
                encoding="utf-8",
                encoding_errors="surrogateescape",  # paths may be any bytes, and one bad caption is one row
            )
    except pd.errors.EmptyDataError:
        raise ValueError(f"{file} is empty: it needs a header and rows") from None
    except UnicodeEncodeError:  # pandas cannot hold such a header
        raise ValueError(f"{file}: not a table in UTF-8: convert it, or use Parquet") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: not a table ({reason}): quote captions, or use JSON Lines") from error
    _check_columns(file, [str(column) for column in frame.columns], keys)
    return frame


def _read_jsonl(file: Path, keys: list[str]) -> pd.DataFrame:
    # Not pandas.read_json: it accepts half-broken lines, gives no line number and alters strings.
    records: list[dict[str, Any]] = []
    columns: dict[str, None] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig", "surrogateescape"))
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise ValueError(f"{file}: line {number} is no JSON object: write one {{...}} a line")
            columns.update(dict.fromkeys(record))
            records.append({key: record.get(key) for key in keys})
    if not records:
        raise ValueError(f"{file} is empty: write one JSON object a line")
    _check_columns(file, list(columns), keys)
    return pd.DataFrame(records, columns=keys, dtype=object)


def _read_parquet(file: Path, keys: list[str]) -> pd.DataFrame:
    try:
        _check_columns(file, pyarrow.parquet.read_schema(file).names, keys)
        return pd.read_parquet(file, columns=keys).astype(object)  # decoded here, where an error is told
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: not a Parquet file ({reason}): write it again") from error


def _check_columns(file: Path, columns: list[str], keys: list[str]) -> None:
    for key in keys:
        if key not in columns:
            near = get_close_matches(key, columns, n=1)
            mend = f"did you mean {near[0]!r}?" if near else "set image_key and caption_key"
            hint = " (one column only: is the separator right?)" if len(columns) == 1 else ""
            raise ValueError(f"{file} has no column {key!r}, only {', '.join(map(repr, columns))}{hint}: {mend}")


def read_classnames(classnames: str | Path | Sequence[str]) -> list[str]:
    """Class names: a file's lines, line n is class n, or the names themselves.

    Raises:
        ValueError: the file is missing, or a name is blank.
    """
    if isinstance(classnames, str | Path):
        names = existing_file(classnames).read_text(encoding="utf-8").rstrip().split("\n")
    else:
        names = list(classnames)
    names = [name.strip() for name in names]
    if not names or not all(names):
        raise ValueError(f"classnames {classnames} has a blank name: give one name a line, line n = class n")
    return names
