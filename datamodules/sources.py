"""What the rest of the project asks of a corpus. A source is random access, picklable and holds no random state."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from PIL import Image
from torch import Tensor

Picture: TypeAlias = Image.Image | Tensor
"""An RGB PIL image, or a uint8 tensor [3, height, width]: torchvision's v2 transforms take both."""


class UnreadableSample(ValueError):  # noqa: N818 - it is about the sample
    """A sample that cannot be used: what ``image`` and ``captions`` of a source raise, in one line with the mend.

    Training replaces it by another (``datamodules.datasets``); in an evaluation set it is an error.
    """


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
    """Pictures with one or more captions each."""

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
