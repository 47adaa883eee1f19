"""Features of a teacher for a corpus, on the disk: a folder of ``features.npy``, ``first.npy`` and ``teacher.json``.

``features.npy`` has a row for each caption, or for each picture; ``first.npy`` the first row of each pair, and behind
the last pair the number of rows. ``teacher.json`` is written last: what it describes is whole.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protoclip.caches import Origin, open_arrays, read_sidecar, refuse_other
from protoclip.ranges import PositiveInt
from protoclip.teachers.encoders import Encoder, Kind

FEATURES, FIRST, SIDECAR = "features.npy", "first.npy", "teacher.json"
ORIGIN = Origin("teacher", "teacher.cache", SIDECAR)


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
        self._arrays: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None

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
        facts = read_sidecar(Path(self.folder), ORIGIN, f"the cache {self.folder} of the teacher {self.name}")
        self.refuse_other(facts, facts.get("corpus", ""))
        if "sha256" not in facts:
            raise ValueError(f"the cache {self.folder} is of an earlier version: {ORIGIN.elsewhere}")
        return facts

    def identity(self, corpus: str) -> dict[str, Any]:
        """What the features of a corpus depend on.

        Args:
            corpus: its fingerprint.
        """
        return {"encoder": self.encoder.describe(), "dims": self.dims, "corpus": corpus}

    def check(self, source_fingerprint: str) -> None:
        """Refuse a cache that is not of these settings and of this corpus.

        Args:
            source_fingerprint: of the corpus that is trained on.

        Raises:
            ValueError: it is missing, unfinished, damaged, of other settings or of another corpus.
        """
        self.refuse_other(self.facts, source_fingerprint)
        self._open()

    @property
    def features(self) -> NDArray[np.float32]:
        """All rows [rows, dim], memory-mapped. Raises ValueError like ``check``, but for the corpus."""
        return self._open()[0]

    def rows(self, indices: Sequence[int] | Tensor, captions: Sequence[int] | Tensor) -> Tensor:
        """Features of pairs.

        Args:
            indices: n pairs of the corpus.
            captions: number of each one's drawn caption; an image teacher does not look at it.

        Returns:
            float32 [n, dim]; zero where the pair could not be read.

        Raises:
            ValueError: as ``check``, but for the corpus; or a pair has no such caption in the cache.
        """
        return torch.from_numpy(np.asarray(self.features[self.row_numbers(indices, captions).numpy()]))

    def row_numbers(self, indices: Sequence[int] | Tensor, captions: Sequence[int] | Tensor) -> Tensor:
        """Which rows those are [n], int64; arguments and errors as of ``rows``."""
        first = self._open()[1]
        pairs = np.asarray(indices, dtype=np.int64)
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

    def _open(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self._arrays is None:
            facts = self.facts
            folder = Path(self.folder)
            shapes = {FEATURES: (facts["rows"], facts["dim"]), FIRST: (facts["pairs"] + 1,)}
            arrays = open_arrays(folder, shapes, ORIGIN)
            self._arrays = arrays[0], arrays[1]
        return self._arrays

    def refuse_other(self, facts: Mapping[str, Any], corpus: str) -> None:
        """Refuse, by a ValueError, what was made by other settings or of another corpus, as its facts say."""
        refuse_other(Path(self.folder), facts, self.identity(corpus), ORIGIN)

    def __getstate__(self) -> dict[str, Any]:
        """Settings without the open files: a memory map would be pickled with all its data."""
        return {**self.__dict__, "_arrays": None}
