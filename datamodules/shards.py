"""Random access to WebDataset shards through an index that is built once and cached, as pairs or as a labelled set.

A shard is a tar of files KEY.EXTENSION; the files of one key are a sample. Keys and extensions are WebDataset's: a key
ends at the first dot of the file name, extensions are lower case.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.locations import cache_folder, matching_files, plain_tar, shard_table
from datamodules.manifests import read_classnames
from datamodules.packed_texts import PackedTexts
from datamodules.pictures import decode_picture
from datamodules.sources import LabelledSource, PairSource, Pictures, UnreadableSample

logger = logging.getLogger(__name__)

_MAX_OPEN = 256  # handles per process: the usual limit is 1024, and corpora have thousands of shards
IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")


class _Handle:
    """A file descriptor that closes with its last reference, which may be another thread's read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class ShardIndex:
    """Where the files of each sample lie in a set of tars.

    The index is one pass over each shard, kept in the cache folder under the shards' paths, sizes and times of change.
    A ``.tar.gz`` is inflated there once, since reading inside it gets slower with the position.

    Args:
        shards: A path, glob or brace pattern, or several of them; read in the order of the file names.
        cache_dir: Folder for the index; default ``PROTOCLIP_CACHE`` or ``~/.cache/protoclip``.

    Raises:
        ValueError: no shard matches, or one is damaged.
    """

    def __init__(self, shards: str | Path | Sequence[str | Path], *, cache_dir: str | Path | None = None) -> None:
        folder = cache_folder(cache_dir)
        files = [file.absolute() for file in matching_files(shards)]
        self._names = [file.name for file in files]
        self._tars = [plain_tar(file, folder) for file in files]
        table = shard_table(files, self._tars, folder)
        self._keys = PackedTexts(table["keys"].tobytes(), table["key_bounds"])
        self._shard = table["shard"]
        self._members = table["members"]
        self.extensions: list[str] = table["extensions"].tolist()
        self.fingerprint = str(table["fingerprint"])
        if not self.extensions:
            raise ValueError(f"{shards} holds no sample: a shard is a tar of files such as KEY.jpg and KEY.txt")
        self._handles: dict[int, _Handle] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._shard)

    def name(self, sample: int) -> str:
        """Shard and key of a sample, for messages."""
        return f"{self._names[self._shard[sample]]}: {self._keys[sample]}"

    def locate(self, extensions: Sequence[str]) -> NDArray[np.int64]:
        """Offset and size of each sample's first file of the given extensions.

        Returns:
            [len(self), 2], size -1 where a sample has none.
        """
        extents = np.full((len(self), 2), -1, dtype=np.int64)
        for extension in reversed(extensions):  # the first one given is written last
            if extension in self.extensions:
                rows = self._members[self._members[:, 1] == self.extensions.index(extension)]
                extents[rows[:, 0]] = rows[:, 2:]
        return extents

    def read(self, sample: int, extent: NDArray[np.int64]) -> bytes:
        """The bytes of one file of a sample, given its row [2] of :meth:`locate`.

        Raises:
            UnreadableSample: the shard is gone or got shorter since it was indexed.
        """
        offset, size = extent.tolist()
        try:
            handle = self._handle(int(self._shard[sample]))  # a name keeps it open while another thread evicts it
            data = os.pread(handle.descriptor, size, offset)
        except OSError as error:
            message = f"{self.name(sample)}: {error.strerror}: bring the shard back"
            raise UnreadableSample(message, "missing_shard") from error
        if len(data) != size:
            message = f"{self.name(sample)}: the shard is shorter than when it was indexed: start again"
            raise UnreadableSample(message, "damaged_shard")
        return data

    def text(self, sample: int, extent: NDArray[np.int64]) -> str:
        """A text file of a sample, as :meth:`read` gives its bytes; an UnreadableSample also where it is not UTF-8."""
        try:
            return self.read(sample, extent).decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{self.name(sample)}: the text is not UTF-8: convert it"
            raise UnreadableSample(message, "bad_text") from error

    def _handle(self, shard: int) -> _Handle:
        if self._process != os.getpid():
            self._handles, self._process = {}, os.getpid()
        handle = self._handles.get(shard)
        if handle is None:
            if len(self._handles) >= _MAX_OPEN:
                self._handles.popitem()
            handle = self._handles[shard] = _Handle(os.open(self._tars[shard], os.O_RDONLY))
        return handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}


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

    def image(self, index: int) -> Image.Image:
        """The RGB picture of a sample; an UnreadableSample where it is broken."""
        sample = int(self._samples[index])
        return decode_picture(self._index.read(sample, self._pictures[index]), self._index.name(sample))


class ShardPairs(_ShardPictures, PairSource):
    """Image-text pairs of WebDataset shards: KEY.jpg and KEY.txt, one caption a line.

    Samples that lack a picture or a caption file are left out, with a warning.

    Args:
        shards: As for :class:`ShardIndex`, and so is ``cache_dir``.
        image_keys: Extensions of pictures; the first that a sample has is used.
        caption_keys: Extensions of caption files; the first that a sample has is used.

    Raises:
        ValueError: no shard matches, one is damaged, or no sample is complete.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        image_keys: Sequence[str] = IMAGE_KEYS,
        caption_keys: Sequence[str] = ("txt",),
        cache_dir: str | Path | None = None,
    ) -> None:
        index = ShardIndex(shards, cache_dir=cache_dir)
        pictures, captions = index.locate(image_keys), index.locate(caption_keys)
        samples = np.flatnonzero((pictures[:, 1] > 0) & (captions[:, 1] > 0))
        if len(samples) == 0:
            wanted = f"a picture ({', '.join(image_keys)}) and captions ({', '.join(caption_keys)})"
            raise ValueError(f"no sample of {shards} has {wanted}, only {index.extensions}: set the keys")
        if (incomplete := len(index) - len(samples)) > 0:
            logger.warning("%d of %d samples of %s are incomplete and left out", incomplete, len(index), shards)
        super().__init__(index, samples, pictures, list(image_keys), list(caption_keys))
        self._captions = captions[samples]

    def key(self, index: int) -> str:
        """Shard and key of a sample."""
        return self._index.name(int(self._samples[index]))

    def captions(self, index: int) -> list[str]:
        """All captions of a sample, without blank lines; an UnreadableSample where none is left."""
        sample = int(self._samples[index])
        text = self._index.text(sample, self._captions[index])
        captions = [line.strip() for line in text.split("\n") if line.strip()]
        if not captions:
            message = f"{self._index.name(sample)}: the caption is blank: fill it in or remove the sample"
            raise UnreadableSample(message, "bad_text")
        return captions

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

    Raises:
        ValueError: no shard matches, one is damaged, or a sample has no picture or no class with a name.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        classnames: str | Path | Sequence[str],
        templates: Sequence[str],
        cache_dir: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        self.classnames = read_classnames(classnames)
        self.templates = list(templates)
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise ValueError(f"templates={self.templates}: give prompts with one {{}} each, as 'a photo of a {{}}.'")
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}: keep at least 1 sample of each class, or leave it out")
        index = ShardIndex(shards, cache_dir=cache_dir)
        pictures = index.locate(IMAGE_KEYS)
        labels = _read_labels(index, pictures, len(self.classnames))
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
        text = index.text(sample, extents[sample]).strip()
        if not text.isdecimal() or int(text) >= num_classes:
            raise ValueError(f"{name}: label {text!r} is not in 0..{num_classes - 1}: mend classnames or the .cls")
        labels[sample] = int(text)
    return labels
