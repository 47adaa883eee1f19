"""Encodes a corpus into a teacher's cache (see ``protoclip.caches``): rows as the model gives them, then PCA."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoclip.caches import Numbered, Progress, Recipe, Sample, make_cache
from protoclip.files import replacing
from protoclip.teachers.cache import FEATURES, FIRST, ORIGIN, TeacherCache
from protoclip.teachers.pca import fit_pca

RAW, COUNTS = "features.raw", "counts.raw"
CHUNK = 8192
LIBRARIES = ("numpy", "open_clip_torch", "timm", "torch", "transformers")


def encode_corpus(
    cache: TeacherCache,
    samples: Callable[[int], Iterable[Numbered]],
    *,
    corpus: str,
    pairs: int | None,
    batch_size: int,
) -> bool:
    """Make the cache of a corpus, or finish it.

    Args:
        cache: where to, and of what encoder.
        samples: the corpus from a pair on, in order.
        corpus: its fingerprint.
        pairs: its size; None where only its end tells.
        batch_size: rows of a batch, which is closed by the pair that fills it.

    Returns:
        False where the cache is finished already.

    Raises:
        ValueError: the folder holds another cache or is being written, more dims than the features have, a model that
            cannot be loaded, or features that are not finite.
    """
    return make_cache(_Features(cache), samples, corpus=corpus, pairs=pairs, batch_size=batch_size)


class _Features(Recipe):
    """``features.raw`` has a row for each item as the model gives it, ``counts.raw`` the number of each pair's rows."""

    origin = ORIGIN
    scratch = (RAW, COUNTS)

    def __init__(self, cache: TeacherCache) -> None:
        super().__init__(Path(cache.folder))
        self.cache = cache

    def load(self) -> None:
        cache, width = self.cache, self.cache.encoder.dim
        if cache.dims is not None and cache.dims > width:
            raise ValueError(
                f"teachers.{cache.name}.dims={cache.dims}: the model has {width}: set that or less, or null"
            )

    def identity(self, corpus: str) -> dict[str, Any]:
        return {**self.cache.identity(corpus), "raw_dim": self.cache.encoder.dim}

    def check(self, corpus: str) -> None:
        self.cache.check(corpus)

    def start(self) -> Mapping[str, bytes]:
        return {RAW: b"", COUNTS: b""}

    def encode(self, batch: Sequence[Sample], pair: int) -> Mapping[str, bytes]:
        """Rows of the pairs of a batch, zero where one cannot be read."""
        cache, width = self.cache, self.cache.encoder.dim
        sizes = np.array([1 if sample is None else len(sample) for sample in batch], dtype=np.int64)
        rows = np.zeros((sizes.sum(), width), dtype=np.float32)
        items = [item for sample in batch if sample is not None for item in sample]
        if items:
            features = cache.encoder(items).numpy()
            if features.shape[1] != width or not np.isfinite(features).all():
                raise ValueError(
                    f"the teacher {cache.name} gave features that are not finite, or of another width than before, at "
                    f"pairs {pair} to {pair + len(batch) - 1}: use other weights, remove {cache.folder}"
                )
            rows[np.repeat([sample is not None for sample in batch], sizes)] = features
        return {RAW: rows.tobytes(), COUNTS: sizes.tobytes()}

    def finish(self, progress: Progress) -> dict[str, Any]:
        """Project what was appended and write the two arrays."""
        cache, folder, width = self.cache, self.folder, self.cache.encoder.dim
        counts = np.fromfile(folder / COUNTS, np.int64, progress.pairs)
        raw = np.memmap(folder / RAW, np.float32, "r", shape=(int(counts.sum()), width))
        readable = len(raw) - progress.unreadable
        if cache.dims is not None and cache.dims > readable:
            told = f"teachers.{cache.name}.dims={cache.dims}: there are {readable} rows"
            raise ValueError(f"{told}: remove {folder}, and set that or less, or null")
        chunks = [slice(start, start + CHUNK) for start in range(0, len(raw), CHUNK)]
        pca = None
        if cache.dims is not None:
            pca = fit_pca((raw[chunk][raw[chunk].any(1)] for chunk in chunks), width, cache.dims)
        dim = cache.dims or width
        with replacing(folder / FEATURES) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(raw), dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                rows: NDArray[np.float32] = np.asarray(raw[chunk])
                file.write((rows if pca is None else pca(rows) * rows.any(1, keepdims=True)).tobytes())
        with (folder / FEATURES).open("rb") as written:
            digest = file_digest(written, "sha256").hexdigest()
        with replacing(folder / FIRST) as file:
            np.lib.format.write_array(file, np.concatenate([[0], counts.cumsum()]), allow_pickle=False)
        return {
            **{"name": cache.name, "rows": len(raw), "dim": dim, "sha256": digest},
            "explained_variance": 1.0 if pca is None else pca.explained_variance,
            "versions": {library: version(library) for library in LIBRARIES},
        }
