"""What the rest of the project asks of a corpus. A source is random access, picklable and holds no random state."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from PIL import Image
from torch import Tensor

Picture: TypeAlias = Image.Image | Tensor
"""An RGB PIL image, or a uint8 tensor [3, height, width]: torchvision's v2 transforms take both."""


class UnreadableSample(ValueError):  # noqa: N818 - it is about the sample
    """A sample that cannot be used: what ``image`` and ``captions`` of a source raise, in one line with the mend.

    Training replaces it by another (``datamodules.datasets``); in an evaluation set it is an error.
    """


class Pictures(Protocol):
    """A finite collection of pictures."""

    @property
    def fingerprint(self) -> str:
        """Hash of what the source holds: two sources of one fingerprint give the same samples."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Picture:
        """The picture of a sample.

        Raises:
            UnreadableSample: it is missing or broken.
        """
        ...

    def label(self, index: int) -> int:
        """The class of a sample, -1 where the corpus has none."""
        ...


class PairSource(Pictures, Protocol):
    """Pictures with one or more captions each."""

    def captions(self, index: int) -> Sequence[str]:
        """All captions of a sample, at least one.

        Raises:
            UnreadableSample: it has none that is text.
        """
        ...


class LabelledSource(Pictures, Protocol):
    """Pictures with classes that have names."""

    @property
    def classnames(self) -> Sequence[str]:
        """Names, in the order of the labels."""
        ...

    @property
    def templates(self) -> Sequence[str]:
        """Zero-shot prompts with one ``{}`` for the class name."""
        ...
