import pytest

from tests import golden


@pytest.mark.parametrize("method", golden.OPTIONS)
def test_losses_have_not_changed(method: str) -> None:
    """If they should have: `make golden`, and a line in the CHANGELOG."""
    stored = golden.read()[method]
    assert len(stored) == golden.STEPS
    assert golden.losses(method) == pytest.approx(stored, rel=1e-6)


def test_methods_part_when_prototypes_set_in() -> None:
    """The first episode is InfoNCE alone and the stream of pairs is shared, so the file holds four equal losses."""
    clip, protoclip = (golden.read()[method] for method in ("clip", "protoclip"))
    assert clip[:4] == pytest.approx(protoclip[:4], rel=1e-9)
    assert all(abs(one - other) > 0.1 for one, other in zip(clip[4:], protoclip[4:], strict=True))
