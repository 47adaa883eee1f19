import pytest
import torch

from protoclip.losses.rows import compared

FIRST, SECOND = torch.arange(6.0), torch.arange(6.0) + 10
VALID = torch.tensor([True, False, True, True, False, True])


def test_all_rows_take_part() -> None:
    features, anchors, divisor = compared(FIRST, SECOND, rows=None, valid=None)
    assert features == (FIRST, SECOND)
    assert (anchors, divisor) == (slice(0, 6), 6)


def test_anchors_are_places_among_those_that_take_part() -> None:
    features, anchors, divisor = compared(FIRST, SECOND, rows=slice(2, 4), valid=VALID)
    assert [value.tolist() for value in features] == [[0, 2, 3, 5], [10, 12, 13, 15]]
    assert features[0][anchors].tolist() == [2, 3]
    assert divisor == 2 * 4 / 6


def test_divisors_of_equal_slices_make_the_mean() -> None:
    parts = [compared(FIRST, rows=slice(start, start + 2), valid=VALID) for start in (0, 2, 4)]
    means = [float(part.features[0][part.anchors].sum()) / part.divisor for part in parts]
    assert sum(means) / 3 == pytest.approx(float(FIRST[VALID].mean()))


def test_nobody_takes_part() -> None:
    features, anchors, divisor = compared(FIRST, rows=slice(0, 3), valid=torch.zeros(6, dtype=torch.bool))
    assert len(features[0][anchors]) == 0
    assert divisor == 1


def test_refuses_rows_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="matched rows, got 6, 5: pass as many of each"):
        compared(FIRST, SECOND[:5], rows=None, valid=None)
