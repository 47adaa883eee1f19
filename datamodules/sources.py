"""What the rest of the project asks of a corpus. A source is random access, picklable and holds no random state."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from PIL import Image
from torch import Tensor

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


class PairSource(Pictures):
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


class LabelledSource(Pictures):
    """Pictures with classes that have names.

    Attributes:
        classnames: names, in the order of the labels.
        templates: zero-shot prompts with one ``{}`` for the class name.
    """

    classnames: Sequence[str]
    templates: Sequence[str]
