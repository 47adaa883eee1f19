import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.sources import UnreadableSample
from protoclip.messages import one_line, raised_in


class Broken(Dataset[int]):
    """Raises as a source does: an own error from a library's."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        try:
            raise OSError("first line: of Pillow\nsecond line")
        except OSError as error:
            raise UnreadableSample("a.png: not readable (x: y): mend it") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_sample_is_told_in_its_own_line(workers: int) -> None:
    with pytest.raises(UnreadableSample) as caught:
        next(iter(DataLoader(Broken(), num_workers=workers)))
    assert one_line(caught.value) == "a.png: not readable (x: y): mend it"


def test_the_first_line_of_a_mistake_is_told() -> None:
    assert one_line(ValueError("set it to 1\nmore")) == "set it to 1"


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("Caught a cold")) == "Caught a cold"


def test_only_a_raise_names_its_module() -> None:
    def ours() -> None:
        raise ValueError("invalid choice")

    for complain, module in ((ours, __name__), (lambda: int("x"), "")):
        with pytest.raises(ValueError, match="invalid") as caught:
            complain()
        assert raised_in(caught.value) == module
    assert raised_in(ValueError()) == ""
