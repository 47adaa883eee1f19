"""What models make of each pair of a corpus, in folders: made once, and read by training."""

from protoclip.caches.making import Progress, Recipe, Sample, make_cache
from protoclip.caches.reading import CorpusCache, Origin, open_arrays, read_sidecar, refuse_other

__all__ = [
    "CorpusCache",
    "Origin",
    "Progress",
    "Recipe",
    "Sample",
    "make_cache",
    "open_arrays",
    "read_sidecar",
    "refuse_other",
]
