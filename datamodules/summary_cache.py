"""One summary of the first caption of each pair of a corpus, on the disk.

``summaries.txt`` has a line for each pair, ``bounds.npy`` where each line begins, and behind the last one its end.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from protoclip.caches import CorpusCache, Numbered, Origin, Progress, Recipe, Sample, make_cache
from protoclip.files import replacing
from protoclip.summarisers import Summariser

SUMMARIES, BOUNDS, LENGTHS = "summaries.txt", "bounds.npy", "lengths.raw"
ORIGIN = Origin("summarise", "summariser.folder", "summaries.json")
LIBRARIES = ("torch", "transformers")


class SummaryCache(CorpusCache):
    """Rows of a finished cache, read one by one.

    Args:
        folder: of the cache.
        summariser: that should have made it; None for any.
    """

    origin = ORIGIN

    def __init__(self, folder: str, summariser: Summariser | None = None) -> None:
        super().__init__(folder, None if summariser is None else {"summariser": summariser.describe()})

    def shapes(self, facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Of the bounds."""
        return {BOUNDS: (facts["pairs"] + 1,)}

    def check(self, source_fingerprint: str) -> None:
        """As the base class; and the text must have all its bytes."""
        super().check(source_fingerprint)
        file, size = Path(self.folder) / SUMMARIES, int(self._open()[0][-1])
        if not file.is_file() or file.stat().st_size != size:
            told = f"{SUMMARIES} is not of {size} bytes"
            raise ValueError(f"{self.folder} is damaged ({told}): remove it and {ORIGIN.mend}")

    def row(self, index: int) -> str:
        """The summary of a pair; empty where its captions could not be read."""
        pair = int(self.pairs(np.array([index]))[0])
        begin, end = self._open()[0][pair : pair + 2].tolist()
        with (Path(self.folder) / SUMMARIES).open("rb") as file:
            file.seek(begin)
            return file.read(end - begin).decode("utf-8").rstrip("\n")


def make_summaries(
    folder: str,
    summariser: Summariser,
    samples: Callable[[int], Iterable[Numbered]],
    *,
    corpus: str,
    pairs: int | None,
    batch_size: int,
) -> bool:
    """Summarise a corpus, or finish it.

    Args:
        folder: where to.
        summariser: what shortens.
        samples: the first caption of each pair, from a pair on.
        corpus: its fingerprint.
        pairs: its size; None where only its end tells.
        batch_size: captions of a batch.

    Returns:
        False where the cache is finished already.

    Raises:
        ValueError: the folder holds another cache or is being written, or the model cannot be loaded.
    """
    recipe = _Summaries(Path(folder), summariser)
    return make_cache(recipe, samples, corpus=corpus, pairs=pairs, batch_size=batch_size)


class _Summaries(Recipe):
    origin = ORIGIN
    scratch = (LENGTHS,)

    def __init__(self, folder: Path, summariser: Summariser) -> None:
        super().__init__(folder)
        self.summariser = summariser

    def load(self) -> None:
        self.summariser.load()

    def identity(self, corpus: str) -> dict[str, Any]:
        return {"summariser": self.summariser.describe(), "corpus": corpus}

    def start(self) -> Mapping[str, bytes]:
        return {SUMMARIES: b"", LENGTHS: b""}

    def encode(self, batch: Sequence[Sample], pair: int) -> Mapping[str, bytes]:
        """A line for each pair; the caption itself where nothing is left of it."""
        captions = [sample[0] for sample in batch if sample is not None]
        summaries = iter(self.summariser(captions) if captions else [])
        texts = ["" if sample is None else next(summaries).strip() or sample[0] for sample in batch]
        lines = [(" ".join(text.split()) + "\n").encode() for text in texts]
        return {SUMMARIES: b"".join(lines), LENGTHS: np.array([len(line) for line in lines], np.int64).tobytes()}

    def finish(self, progress: Progress) -> dict[str, Any]:
        lengths = np.fromfile(self.folder / LENGTHS, np.int64, progress.pairs)
        with replacing(self.folder / BOUNDS) as file:
            np.lib.format.write_array(file, np.concatenate([[0], lengths.cumsum()]), allow_pickle=False)
        with (self.folder / SUMMARIES).open("rb") as written:
            digest = file_digest(written, "sha256").hexdigest()
        return {"sha256": digest, "versions": {library: version(library) for library in LIBRARIES}}
