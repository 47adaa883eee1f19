from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from datamodules.wordnet import FOLDER, PARTS, WordNet

LICENCE = "  1 This software and database is being provided to you  \n  2 as is  \n"
SYNSETS = {
    "noun": (
        ("dog", "domestic_dog", "Canis_familiaris"),
        ("cad", "dog"),
        ("man", "adult_male"),
        ("mouse", "x-mouse2"),
        ("at", "astatine"),
    ),
    "verb": (("chase", "dog"), ("run", "go"), ("bake", "cook")),
    "adj": (("quick", "fast(p)"), ("a",)),
    "adv": (("quickly", "fast"),),
}
IRREGULAR = {"noun": "mice mouse\n", "verb": "gone go\nran run\n"}


def write_wordnet(
    folder: Path, synsets: Mapping[str, Sequence[Sequence[str]]] = SYNSETS, irregular: Mapping[str, str] = IRREGULAR
) -> str:
    """A database in WordNet's format (wndb(5WN)) with these synsets by part of speech."""
    folder.mkdir(exist_ok=True)
    for part in PARTS:
        data, places = LICENCE, dict[str, list[str]]()
        for words in synsets.get(part, ()):
            place = f"{len(data):08d}"
            members = " ".join(f"{word} 0" for word in words)
            data += f'{place} 03 {part[0]} {len(words):02x} {members} 001 @ 00000000 n 0000 | a gloss; "of words"  \n'
            for word in words:
                places.setdefault(word.partition("(")[0].lower(), []).append(place)
        index = [
            f"{word} {part[0]} {len(found)} 2 @ ~ {len(found)} 1 {' '.join(found)}  \n"
            for word, found in sorted(places.items())
        ]
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text(LICENCE + "".join(index))
        if part in irregular:
            (folder / f"{part}.exc").write_text(irregular[part])
    return str(folder)


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    return WordNet(write_wordnet(tmp_path_factory.mktemp("wordnet")))


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("dog", ["cad", "canis familiaris", "chase", "domestic dog"]),
        ("dogs", ["cad", "canis familiaris", "chase", "dog", "domestic dog"]),  # by its base form
        ("men", ["adult male", "man"]),
        ("mice", ["mouse"]),  # x-mouse2 is not of letters
        ("ran", ["go", "run"]),
        ("baking", ["bake", "cook"]),
        ("fast", ["quick", "quickly"]),
        ("faster", ["fast", "quick"]),
        ("quick", ["fast"]),
        ("adult male", ["man"]),
        ("at", ["astatine"]),
        ("a", []),
        ("do", []),
        ("zebra", []),
        ("", []),
        ("s", []),
        ("\ud800", []),
        ("hund犬", []),
    ],
)
def test_synonyms_are_the_other_words_of_the_synsets(wordnet: WordNet, word: str, synonyms: list[str]) -> None:
    assert wordnet.synonyms(word) == synonyms


def test_every_word_of_a_large_index_is_found(tmp_path: Path) -> None:
    names = [f"{first}{second}{tail}" for first in "abz" for second in "ay" for tail in ("", "'s", "_b", "-b", "b")]
    wordnet = WordNet(write_wordnet(tmp_path / "large", {"noun": [(name, "other") for name in names]}))
    assert all("other" in wordnet.synonyms(name.replace("_", " ")) for name in names)
    assert len(wordnet.synonyms("other")) == len({name.replace("_", " ").replace("-", " ") for name in names}) - 6


def test_a_folder_without_the_database_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "some")
    WordNet(folder).check()
    (tmp_path / "some" / "data.adj").unlink()
    for place, missing in ((folder, "data.adj"), (str(tmp_path / "none"), "index.noun")):
        with pytest.raises(ValueError, match=f"no {missing}: install it .*wordnet-base.*, or set") as error:
            WordNet(place).check()
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path(FOLDER).is_dir(), reason="WordNet is not installed")
def test_the_database_of_debian() -> None:
    wordnet = WordNet()
    wordnet.check()
    assert {"domestic dog", "chase"} <= set(wordnet.synonyms("dogs"))
    assert "picture" in wordnet.synonyms("photo")
