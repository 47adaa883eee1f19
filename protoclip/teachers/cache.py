"""Features of a teacher for a corpus, on the disk: a folder of ``features.npy``, ``first.npy`` and ``teacher.json``.

``features.npy`` has a row for each caption, or for each picture; ``first.npy`` the first row of each pair, and behind
the last pair the number of rows. ``teacher.json`` is written last: what it describes is whole.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protoclip.caches import CorpusCache, Origin
from protoclip.ranges import PositiveInt
from protoclip.teachers.encoders import Encoder, Kind

FEATURES, FIRST, SIDECAR = "features.npy", "first.npy", "teacher.json"
ORIGIN = Origin("teacher", "teacher.cache", SIDECAR)


class TeacherCache(CorpusCache):
    """Rows of a finished cache.

    Args:
        folder: of the cache.
        name: of the teacher, for messages.
        encoder: settings of the model that the features are of; it is never loaded here.
        dims: of the features after PCA; None: as the model gives them.
    """

    origin = ORIGIN

    def __init__(self, folder: str, *, name: str, encoder: Encoder, dims: PositiveInt | None = None) -> None:
        super().__init__(folder, {"encoder": encoder.describe(), "dims": dims})
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
        return int(self.facts["dim"])

    @property
    def fingerprint(self) -> str:
        """Hash of what training reads: the features, not where they lie nor what the model that they are of is called.

        Raises ValueError like ``check``, but for the corpus.
        """
        facts = self.facts
        read = {"features": facts["sha256"], "corpus": facts["corpus"], "kind": self.kind}
        return sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """What ``teacher.json`` says. Raises ValueError like ``check``, but for the corpus."""
        facts = super().facts
        if "sha256" not in facts:
            raise ValueError(f"the cache {self.folder} is of an earlier version: {ORIGIN.elsewhere}")
        return facts

    @property
    def _called(self) -> str:
        return f"the cache {self.folder} of the teacher {self.name}"

    @property
    def features(self) -> NDArray[np.float32]:
        """All rows [rows, dim], memory-mapped. Raises ValueError like ``check``, but for the corpus."""
        return self._open()[0]

    def shapes(self, facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Of the features and the first row of each pair."""
        return {FEATURES: (facts["rows"], facts["dim"]), FIRST: (facts["pairs"] + 1,)}

    def rows(self, indices: Sequence[int] | Tensor, captions: Sequence[int] | Tensor) -> Tensor:
        """Features of pairs.

        Args:
            indices: n pairs of the corpus, or the numbers of their keys (see ``serve``).
            captions: number of each one's drawn caption; an image teacher does not look at it.

        Returns:
            float32 [n, dim]; zero where the pair could not be read.

        Raises:
            ValueError: as ``check``, but for the corpus; or a pair, or such a caption of it, is not in the cache.
        """
        return torch.from_numpy(np.asarray(self.features[self.row_numbers(indices, captions).numpy()]))

    def row_numbers(self, indices: Sequence[int] | Tensor, captions: Sequence[int] | Tensor) -> Tensor:
        """Which rows those are [n], int64; arguments and errors as of ``rows``."""
        first = self._open()[1]
        pairs = self.pairs(np.asarray(indices, dtype=np.int64))
        rows = first[pairs]
        if self.kind == "text":
            rows = rows + np.asarray(captions, dtype=np.int64)
            beyond = np.flatnonzero(rows >= first[pairs + 1])
            if len(beyond):
                pair = pairs[beyond[0]]
                raise ValueError(
                    f"the cache {self.folder} has {first[pair + 1] - first[pair]} captions of pair {pair}, and number "
                    f"{captions[int(beyond[0])]} was drawn: remove it and {ORIGIN.mend}"
                )
        return torch.from_numpy(np.asarray(rows))
