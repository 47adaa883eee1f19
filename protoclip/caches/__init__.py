"""What models make of each pair of a corpus, in folders: made once, and read by training."""

from protoclip.caches.keys import key_number
from protoclip.caches.making import Numbered, Progress, Recipe, Sample, make_cache
from protoclip.caches.reading import CorpusCache, Origin

__all__ = [
    "CorpusCache",
    "Numbered",
    "Origin",
    "Progress",
    "Recipe",
    "Sample",
    "key_number",
    "make_cache",
]
