"""What the rest of the project asks of a corpus. A source is random access, picklable and holds no random state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from protoclip.caches import key_number

Picture: TypeAlias = Image.Image | Tensor
"""An RGB PIL image, or a uint8 tensor [3, height, width]: torchvision's v2 transforms take both."""


FaultKind: TypeAlias = Literal[
    "missing_shard",
    "damaged_shard",
    "bad_gzip",
    "duplicate_key",
    "missing_part",
    "bad_json",
    "bad_text",
    "missing_file",
    "unreadable_image",
]
"""What can be wrong with a corpus: whole shards first, then files of a sample."""


@dataclass(frozen=True)
class Fault:
    """Something of a corpus that cannot be used, found while it is opened or read."""

    kind: FaultKind
    place: str
    """The shard, the sample or the file."""
    reason: str
    """In one line, with the mend."""


class UnreadableSample(ValueError):  # noqa: N818 - it is about the sample
    """A sample that cannot be used: what ``image`` and ``captions`` of a source raise, in one line with the mend.

    Training replaces it by another (``datamodules.datasets``); in an evaluation set it is an error.

    Attributes:
        kind: what is wrong with it.
    """

    def __init__(self, message: str, kind: FaultKind = "unreadable_image") -> None:
        super().__init__(message)
        self.kind = kind


class Pictures(ABC):
    """A finite collection of pictures.

    Attributes:
        fingerprint: hash of what the source holds: two sources of one fingerprint give the same samples.
    """

    fingerprint: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Picture:
        """The picture of a sample.

        Raises:
            UnreadableSample: it is missing or broken.
        """

    @abstractmethod
    def label(self, index: int) -> int:
        """The class of a sample, -1 where the corpus has none."""

    def file(self, index: int) -> Path | None:
        """Where the picture is a file by itself; None where it lies in an archive, or is none."""
        return None

    @property
    def files(self) -> Iterable[Path]:
        """All files that pictures are read from."""
        return (file for index in range(len(self)) if (file := self.file(index)) is not None)

    @property
    def content(self) -> str:
        """Hash of the fingerprint, and of when the files were last written: it tells other pictures of the same sizes.

        A copy has the fingerprint of the original, whose results are found again, but may have other times.
        """
        times = np.fromiter(map(_written, self.files), np.int64)
        return sha256(self.fingerprint.encode() + times.tobytes()).hexdigest()


def _written(file: Path) -> int:
    """Nanoseconds; -1 of a file that is missing, which reading tells."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return -1


class Corpus(ABC):
    """What is trained on: a ``PairSource`` or a ``PairStream``.

    Attributes:
        fingerprint: hash of all that decides which pairs there are.
    """

    fingerprint: str


class PairSource(Pictures, Corpus):
    """Pictures with one or more captions each.

    Attributes:
        faults: how much of each kind was left out when the corpus was opened.
    """

    faults: Mapping[FaultKind, int] = MappingProxyType({})

    @property
    def strata(self) -> Sequence[tuple[int, float]] | None:
        """Sizes of the corpus' parts, in order, and the share of an episode that each has; None: it is one part."""
        return None

    def key(self, index: int) -> str:
        """The name of a sample in its corpus, by which others find it; its number where it has none."""
        return str(index)

    @abstractmethod
    def captions(self, index: int) -> Sequence[str]:
        """All captions of a sample, at least one.

        Raises:
            UnreadableSample: it has none that is text.
        """

    @property
    def caption_count(self) -> int | None:
        """Captions of all samples, where they are counted; None where they are not, and have no rows."""
        return None

    def caption_row(self, index: int, number: int) -> int:
        """Which of all captions a sample's so many-th is, counted from 0, where they are counted."""
        raise NotImplementedError

    def encoded(self, index: int) -> bytes | None:
        """The picture as the corpus keeps it, an encoded file; None where it keeps none, but draws it.

        Raises:
            UnreadableSample: it is missing.
        """
        return None

    def fields(self, index: int) -> Mapping[str, Any]:
        """What else the corpus says of a sample by name, such as its KEY.json.

        Raises:
            UnreadableSample: it is damaged.
        """
        return {}

    def numbers(self, field: str) -> NDArray[np.float64] | None:
        """A field of all samples [len(self)], NaN where it is no number; None where only ``fields`` has it.

        Raises:
            ValueError: there is no such field.
        """
        return None


Report: TypeAlias = Callable[[Fault], None]
Cursor: TypeAlias = NDArray[np.int64]
"""Where a lane stands in each of its sources [sources, 4]: pass, shard in the pass, next sample, pairs given so far."""
CURSOR_WIDTH = 4


@dataclass(frozen=True, slots=True)
class RawPair:
    """A pair as it lies in a shard."""

    key: str
    """Shard and key."""
    picture: bytes
    captions: Sequence[str]

    @property
    def index(self) -> int:
        """The number that stands for the key where a finite corpus has a place."""
        return key_number(self.key)

    @property
    def checksum(self) -> int:
        """Of picture and captions."""
        return crc32("\n".join(self.captions).encode(), crc32(self.picture))


class LaneReader(ABC):
    """One lane of a stream.

    Attributes:
        cursor: where it stands, [sources, 4].
    """

    cursor: Cursor

    @abstractmethod
    def read(self) -> RawPair:
        """The next pair.

        Raises:
            ValueError: a whole pass over the lane's shards gave none.
        """


class PairStream(Corpus):
    """Pairs without end, read forwards only.

    A stream has a fixed number of lanes, each with its own pairs. Processes and loader's workers divide the lanes among
    themselves, so what is read does not depend on how many they are.

    Attributes:
        fingerprint: hash of what decides which pairs come, and when.
        lanes: that processes and workers divide among themselves.
        sources: rows of a lane's cursor.
        shards: that it is read from.
        shuffle: pairs of each lane that training draws from.
    """

    fingerprint: str
    lanes: int
    sources: int
    shards: int
    shuffle: int

    @abstractmethod
    def reader(self, lane: int, cursor: Cursor, seed: int, report: Report) -> LaneReader:
        """One lane, from a cursor [sources, 4] on; zeros are its beginning.

        Args:
            lane: in [0, lanes).
            cursor: is not changed.
            seed: of the permutations.
            report: is told what cannot be used.
        """

    @abstractmethod
    def every(self, report: Report) -> Iterator[RawPair]:
        """Each pair once, in an order that is always the same.

        Args:
            report: is told what cannot be used.
        """


def placed(corpus: Corpus) -> str | None:
    """The fingerprint of a corpus whose pairs have places; None of a stream."""
    return None if isinstance(corpus, PairStream) else corpus.fingerprint


class LabelledSource(Pictures):
    """Pictures with classes that have names.

    Attributes:
        classnames: names, in the order of the labels.
        templates: zero-shot prompts with one ``{}`` for the class name.
    """

    classnames: Sequence[str]
    templates: Sequence[str]
