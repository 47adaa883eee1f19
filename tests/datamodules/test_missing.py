import pytest

from datamodules.missing import MissingSet


def test_a_missing_set_is_empty_and_says_what_to_do() -> None:
    pictures = MissingSet("dtd", "put it into sets/dtd")
    assert (len(pictures), pictures.name) == (0, "dtd")
    for read in (pictures.image, pictures.label):
        with pytest.raises(IndexError, match="dtd is missing: put it into sets/dtd"):
            read(0)
