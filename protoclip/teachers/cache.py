"""Features of a teacher for a corpus, on the disk: a folder of ``features.npy``, ``first.npy`` and ``teacher.json``."""

from collections.abc import Sequence

from torch import Tensor

from protoclip.ranges import PositiveInt
from protoclip.teachers.encoders import Encoder, Kind


class TeacherCache:
    """Rows of a finished cache; nothing is read before the first row, and a copy in a loader's worker reads for itself.

    Args:
        folder: of the cache.
        name: of the teacher, for messages.
        encoder: settings of the model that the features are of; it is never loaded here.
        dims: of the features after PCA; None: as the model gives them.
    """

    def __init__(self, folder: str, *, name: str, encoder: Encoder, dims: PositiveInt | None = None) -> None:
        self.folder = folder
        self.name = name
        self.encoder = encoder
        self.dims = dims

    @property
    def kind(self) -> Kind:
        """What the teacher encodes: ``text`` (a row for each caption) or ``image`` (a row for each pair)."""
        return self.encoder.kind

    @property
    def dim(self) -> int:
        """Width of the rows. Raises ValueError like ``check``, but for the corpus."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Hash of the encoder, the dims and the corpus. Raises ValueError like ``check``, but for the corpus."""
        raise NotImplementedError

    def check(self, source_fingerprint: str) -> None:
        """Refuse a cache that is not of these settings and of this corpus.

        Args:
            source_fingerprint: of the corpus that is trained on.

        Raises:
            ValueError: it is missing, unfinished, of other settings or of another corpus.
        """
        raise NotImplementedError

    def rows(self, indices: Sequence[int] | Tensor, captions: Sequence[int] | Tensor) -> Tensor:
        """Features of pairs.

        Args:
            indices: n pairs of the corpus.
            captions: number of each one's drawn caption; an image teacher does not look at it.

        Returns:
            float32 [n, dim]; zero where the pair could not be read.

        Raises:
            ValueError: a pair has no such caption in the cache.
        """
        raise NotImplementedError
