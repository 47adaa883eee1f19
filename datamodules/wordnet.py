"""Synonyms from a folder of WordNet's database files, as Debian's wordnet-base installs them.

Other readers ask for ``lexnames``, which that package leaves out. The files are searched where they lie, so that the
processes of a loader share one copy in memory.
"""

import mmap
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDER = "/usr/share/wordnet"
PARTS = ("noun", "verb", "adj", "adv")
ENDINGS = {
    "noun": (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
             ("ies", "y")),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}  # fmt: skip
"""What an inflected word may end in, and its base form in place of that (WordNet's morphy)."""


class WordNet:
    """Looks up words.

    Args:
        folder: with ``index.*`` and ``data.*`` of each part of speech, and ``*.exc`` of irregular forms.
    """

    def __init__(self, folder: str = FOLDER) -> None:
        self.folder = folder

    def check(self) -> None:
        """Refuse a folder without the database.

        Raises:
            ValueError: with the first file that is missing.
        """
        for name in (f"{kind}.{part}" for part in PARTS for kind in ("index", "data")):
            if not Path(self.folder, name).is_file():
                raise ValueError(
                    f"synonyms come from WordNet, and {self.folder} has no {name}: install it "
                    f"(on Debian: apt-get install wordnet-base), or set the view's wordnet to its folder"
                )

    def synonyms(self, word: str) -> list[str]:
        """All other words of the synsets that a lower-case word or its base form is in, sorted; letters and spaces."""
        found = {
            synonym.partition("(")[0].replace("_", " ").replace("-", " ").lower()  # (p): where an adjective stands
            for part in PARTS
            for form in self._forms(word, part)
            for offset in self._offsets(form, part)
            for synonym in self._members(part, offset)
        }
        return sorted(name for name in found - {word} if name.replace(" ", "").isalpha())

    def _forms(self, word: str, part: str) -> list[str]:
        """The word and its possible base forms."""
        irregular = _line(f"{self.folder}/{part}.exc", word).split()[1:]
        regular = [word.removesuffix(end) + base for end, base in ENDINGS[part] if word.endswith(end)]
        return list(dict.fromkeys([word, *(irregular or regular)]))

    def _offsets(self, form: str, part: str) -> list[int]:
        """Places of a word's synsets in the file of data."""
        fields = _line(f"{self.folder}/index.{part}", form.replace(" ", "_")).split()
        return [int(field) for field in fields[-int(fields[2]) :]] if fields else []

    def _members(self, part: str, offset: int) -> Iterator[str]:
        """The words of a synset."""
        data = _contents(f"{self.folder}/data.{part}")
        fields = data[offset : data.find(b"\n", offset)].decode().split()
        return iter(fields[4 : 4 + 2 * int(fields[3], 16) : 2])


@cache
def _contents(path: str) -> mmap.mmap | bytes:
    file = Path(path)
    if not file.is_file() or not file.stat().st_size:
        return b""
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _line(path: str, word: str) -> str:
    """The line of a sorted file that begins with a word and a space, nothing where there is none."""
    data = _contents(path)

    def key(place: int) -> bytes:
        start = data.rfind(b"\n", 0, place) + 1
        return data[start : data.find(b" ", start)]

    place = bisect_left(range(len(data)), word.encode(errors="replace"), key=key)
    line = data[place : data.find(b"\n", place)].decode()
    return line if word and line.partition(" ")[0] == word else ""
