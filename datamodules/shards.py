"""WebDataset shards as pairs or as a labelled set, by random access through an index that is built once and cached.

A shard is a tar of files KEY.EXTENSION; the adjacent files of one key are a sample. Keys and extensions are
WebDataset's: a key ends at the first dot of the file name, extensions are lower case.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.classnames import read_classnames
from datamodules.fault_tally import SHARD_FAULTS, one_line
from datamodules.labelled_files import check_labels, without_empty
from datamodules.pictures import decode_picture
from datamodules.prompts import checked_templates
from datamodules.shard_index import ShardIndex
from datamodules.sources import Fault, FaultKind, LabelledSource, PairSource, Pictures, UnreadableSample

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")


class _ShardPictures(Pictures):
    """Chosen samples of an index with their pictures.

    Attributes:
        fingerprint: SHA-256 of names, keys, sizes and small files (captions, labels); not of folders, times, pixels.
    """

    def __init__(self, index: ShardIndex, samples: NDArray[np.int64], pictures: NDArray[np.int64], *options: object):
        self._index = index
        self._samples = samples
        self._pictures = pictures[samples]
        described = json.dumps([index.fingerprint, *options])
        self.fingerprint = hashlib.sha256(described.encode() + samples.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._samples)

    def image(self, index: int) -> Tensor:
        """The RGB picture of a sample; an UnreadableSample where it is broken."""
        return decode_picture(self.encoded(index), self._index.name(int(self._samples[index])))

    @property
    def files(self) -> list[Path]:
        """The shards."""
        return self._index.files

    def encoded(self, index: int) -> bytes:
        """The picture's file; an UnreadableSample where the shard is gone."""
        return self._index.read(int(self._samples[index]), self._pictures[index])


class ShardPairs(_ShardPictures, PairSource):
    """Image-text pairs of WebDataset shards: KEY.jpg and KEY.txt, one caption a line.

    Samples that lack a picture or captions are left out, and so is what cannot be read of damaged shards; each kind of
    fault is told in a warning.

    Args:
        shards: As for :class:`ShardIndex`, and so is ``cache_dir``.
        image_keys: Extensions of pictures; the first that a sample has is used.
        caption_keys: Extensions of caption files, and ``EXTENSION:FIELD`` for a text or a list of texts in a JSON
            object; the first file that a sample has is used.
        max_faults: Largest share of the samples, and of the shards, that may be left out or read in part.

    Attributes:
        faults: what was left out by kind: shards where a shard is at fault, otherwise samples.

    Raises:
        ValueError: no shard matches, no sample is complete, or more is left out than ``max_faults`` allows.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        image_keys: Sequence[str] = IMAGE_KEYS,
        caption_keys: Sequence[str] = ("txt",),
        max_faults: float = 0.1,
        cache_dir: str | Path | None = None,
    ) -> None:
        index = ShardIndex(shards, cache_dir=cache_dir)
        pictures = index.locate(image_keys)
        captions = index.locate([key.partition(":")[0] for key in caption_keys])
        complete = (pictures[:, 1] > 0) & (captions[:, 1] > 0)
        samples, incomplete = np.flatnonzero(complete), np.flatnonzero(~complete)
        if len(samples) == 0:
            wanted = f"a picture ({', '.join(image_keys)}) and captions ({', '.join(caption_keys)})"
            raise ValueError(f"no sample of {shards} has {wanted}, only {index.extensions}: set the keys")
        if len(incomplete) > 0:
            first = int(incomplete[0])
            lacking = f"captions ({', '.join(caption_keys)})" if pictures[first, 1] > 0 else "a picture"
            fault = Fault("missing_part", index.name(first), f"it lacks {lacking}: add what is missing")
            index.faults.add(fault, len(incomplete))
        self.faults: dict[FaultKind, int] = dict(index.faults.counts)
        index.faults.check(SHARD_FAULTS, index.shards, "shards", max_faults)
        total = len(index) + index.faults.counts["duplicate_key"]
        index.faults.check(("duplicate_key", "missing_part"), total, "samples", max_faults)
        index.faults.tell(shards)
        super().__init__(index, samples, pictures, list(image_keys), list(caption_keys))
        self._captions = captions[samples]
        self._fields = [key.partition(":")[2] for key in caption_keys]

    def key(self, index: int) -> str:
        """Shard and key of a sample."""
        return self._index.name(int(self._samples[index]))

    def captions(self, index: int) -> list[str]:
        """All captions of a sample; an UnreadableSample as :func:`read_captions` raises it."""
        sample, place = int(self._samples[index]), self._captions[index]
        return read_captions(self._index.read(sample, place), self._fields[place[2]], self._index.name(sample))

    def fields(self, index: int) -> dict[str, Any]:
        """KEY.json of a sample, empty where it has none; an UnreadableSample where it is no JSON object."""
        sample = int(self._samples[index])
        if self._json[sample, 1] < 0:
            return {}
        return json_object(self._index.read(sample, self._json[sample]), self._index.name(sample))

    @cached_property
    def _json(self) -> NDArray[np.int64]:
        return self._index.locate(("json",))

    def label(self, index: int) -> int:
        """-1: pairs have no classes."""
        return -1


class ShardLabelled(_ShardPictures, LabelledSource):
    """A labelled set of WebDataset shards: KEY.jpg and KEY.cls, the number of the class.

    Args:
        shards: As for :class:`ShardIndex`, and so is ``cache_dir``.
        classnames: Names in the order of the labels, or a file with one a line.
        templates: Zero-shot prompts with one ``{}`` for the name.
        limit: Keep the first so many samples of each class, for quick evaluations.
        empty_classes: What happens to a class without any picture; one that is dropped has no prompt either.

    Raises:
        ValueError: no shard matches, one is damaged, a key is there twice, a sample has no picture or no class with a
            name, or a class has no picture.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        classnames: str | Path | Sequence[str],
        templates: Sequence[str],
        cache_dir: str | Path | None = None,
        limit: int | None = None,
        empty_classes: Literal["error", "drop"] = "error",
    ) -> None:
        self.classnames = read_classnames(classnames)
        self.templates = checked_templates(templates)
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}: keep at least 1 sample of each class, or leave it out")
        index = ShardIndex(shards, cache_dir=cache_dir)
        for fault in index.faults.first.values():  # metrics over other samples could not be compared
            raise ValueError(one_line(fault))
        pictures = index.locate(IMAGE_KEYS)
        labels = _read_labels(index, pictures, len(self.classnames))
        place = str(shards if isinstance(shards, str | Path) else shards[0])
        if empty_classes == "drop":
            labels, self.classnames = without_empty(place, labels, self.classnames)
        check_labels(place, labels, self.classnames)
        samples = np.arange(len(index))
        if limit is not None:
            first = [np.flatnonzero(labels == label)[:limit] for label in range(len(self.classnames))]
            samples = np.sort(np.concatenate(first))
        super().__init__(index, samples, pictures, self.classnames)
        self._labels = labels[samples]

    def label(self, index: int) -> int:
        """The class of a sample."""
        return int(self._labels[index])


def _read_labels(index: ShardIndex, pictures: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    extents = index.locate(("cls",))
    labels = np.empty(len(index), dtype=np.int64)
    for sample in range(len(index)):
        name = index.name(sample)
        if pictures[sample, 1] <= 0 or extents[sample, 1] <= 0:
            lacking = ".cls" if pictures[sample, 1] > 0 else f"picture ({', '.join(IMAGE_KEYS)})"
            raise ValueError(f"{name} has no {lacking}: add it or remove the sample")
        text = index.read(sample, extents[sample]).decode(errors="replace").strip()
        if not text.isdecimal() or int(text) >= num_classes:
            raise ValueError(f"{name}: label {text!r} is not in 0..{num_classes - 1}: mend classnames or the .cls")
        labels[sample] = int(text)
    return labels


def read_captions(data: bytes, field: str, name: str) -> list[str]:
    """The captions in a file: its lines, or a field of its JSON object, which is a text or a list of texts.

    Args:
        data: The file.
        field: Of the object; empty for lines of text.
        name: What errors call the sample.

    Returns:
        At least one, none of them blank.

    Raises:
        UnreadableSample: there is none that is text.
    """
    captions = _json_texts(data, field, name) if field else _lines(data, name)
    captions = [caption.strip() for caption in captions if caption.strip()]
    if not captions:
        raise UnreadableSample(f"{name}: the caption is blank: fill it in or remove the sample", "bad_text")
    return captions


def _lines(data: bytes, name: str) -> list[str]:
    try:
        return data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UnreadableSample(f"{name}: the text is not UTF-8: convert it", "bad_text") from error


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object in UTF-8; an UnreadableSample where the bytes are something else."""
    try:
        record = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UnreadableSample(f"{name}: not a JSON object in UTF-8: write it again", "bad_json")
    return record


def _json_texts(data: bytes, field: str, name: str) -> list[str]:
    record = json_object(data, name)
    if field not in record:
        raise UnreadableSample(f"{name}: no JSON object with {field!r}: set caption_keys, or mend it", "bad_json")
    texts = record[field] if isinstance(record[field], list) else [record[field]]
    if not all(isinstance(text, str) for text in texts):
        raise UnreadableSample(f"{name}: {field!r} is no text and no list of texts: mend it", "bad_json")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise UnreadableSample(f"{name}: {field!r} has half a character: write it again", "bad_text") from error
    return texts
