import torch

from protoclip.terms.base import present


def test_present_are_rows_that_are_zero_nowhere() -> None:
    first, second = torch.ones(4, 3), torch.ones(4, 2)
    assert present(first, second) is None
    first[1] = 0.0
    second[2] = 0.0
    second[3, 0] = 0.0  # one zero of a row is a value like any other
    rows = present(first, second)
    assert rows is not None
    assert rows.tolist() == [True, False, False, True]
