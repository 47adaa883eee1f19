"""Regions of each picture of a corpus, on the disk: ``regions.npy`` [pairs, boxes, dim], absent boxes rows of zeros."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoclip.caches import CorpusCache, Numbered, Origin, Progress, Recipe, Sample, make_cache
from protoclip.detector import Detector

REGIONS = "regions.npy"
ORIGIN = Origin("regions", "detector.folder", "regions.json")
LIBRARIES = ("torch", "torchvision")
CHUNK = 1024
HEADER = 128


class RegionCache(CorpusCache):
    """Rows of a finished cache, memory-mapped.

    Args:
        folder: of the cache.
        detector: that should have made it; None for any.
    """

    origin = ORIGIN

    def __init__(self, folder: str, detector: Detector | None = None) -> None:
        super().__init__(folder, None if detector is None else {"detector": detector.describe()})

    @property
    def dim(self) -> int:
        """Width of a region. Raises ValueError like ``check``, but for the corpus."""
        return int(self.facts["dim"])

    def shapes(self, facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Of the regions."""
        return {REGIONS: (facts["pairs"], facts["boxes"], facts["dim"])}

    def row(self, index: int) -> NDArray[np.float32]:
        """The regions of a picture [boxes, dim], by falling score; all zero where it could not be read."""
        return np.array(self._open()[0][self.pairs(np.array([index]))[0]])


def make_regions(
    folder: str,
    detector: Detector,
    samples: Callable[[int], Iterable[Numbered]],
    *,
    corpus: str,
    pairs: int | None,
    batch_size: int,
) -> bool:
    """Detect the regions of a corpus, or finish it.

    Args:
        folder: where to.
        detector: what finds them.
        samples: the picture of each pair as a uint8 array [3, height, width], from a pair on.
        corpus: its fingerprint.
        pairs: its size; None where only its end tells.
        batch_size: pictures of a batch.

    Returns:
        False where the cache is finished already.

    Raises:
        ValueError: the folder holds another cache or is being written, the model cannot be loaded, or its features are
            not finite.
    """
    recipe = _Regions(Path(folder), detector)
    return make_cache(recipe, samples, corpus=corpus, pairs=pairs, batch_size=batch_size)


class _Regions(Recipe):
    origin = ORIGIN

    def __init__(self, folder: Path, detector: Detector) -> None:
        super().__init__(folder)
        self.detector = detector

    def load(self) -> None:
        _ = self.detector.network

    def identity(self, corpus: str) -> dict[str, Any]:
        return {"detector": self.detector.describe(), "corpus": corpus}

    def start(self) -> Mapping[str, bytes]:
        return {REGIONS: self._header(0)}

    def _header(self, pairs: int) -> bytes:
        """Of the array, in as many bytes for any number of pairs."""
        header = io.BytesIO()
        shape = (pairs, self.detector.boxes, self.detector.dim)
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        assert len(header.getvalue()) == HEADER, "numpy pads to 128 bytes"
        return header.getvalue()

    def encode(self, batch: Sequence[Sample], pair: int) -> Mapping[str, bytes]:
        rows = np.zeros((len(batch), self.detector.boxes, self.detector.dim), np.float32)
        readable = [number for number, sample in enumerate(batch) if sample is not None]
        if readable:
            rows[readable] = self.detector([sample[0] for sample in batch if sample is not None])
        if not np.isfinite(rows).all():
            told = f"the detector gave features that are not finite at pairs {pair} to {pair + len(batch) - 1}"
            raise ValueError(f"{told}: use other weights, remove {self.folder}")
        return {REGIONS: rows.tobytes()}

    def finish(self, progress: Progress) -> dict[str, Any]:
        with (self.folder / REGIONS).open("r+b") as file:
            file.write(self._header(progress.pairs))
        regions = np.load(self.folder / REGIONS, mmap_mode="r", allow_pickle=False)
        chunks = (regions[start : start + CHUNK] for start in range(0, len(regions), CHUNK))
        counts = np.concatenate([chunk.any(2).sum(1) for chunk in chunks])
        with (self.folder / REGIONS).open("rb") as written:
            digest = file_digest(written, "sha256").hexdigest()
        found = {"regions": int(counts.sum()), "without_regions": int((counts == 0).sum())}
        facts = {"boxes": self.detector.boxes, "dim": regions.shape[2], **found, "sha256": digest}
        return {**facts, "versions": {library: version(library) for library in LIBRARIES}}
