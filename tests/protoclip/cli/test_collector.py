"""Imports are not collected, and another program's objects are not kept."""

import gc
import sys

import pytest

from protoclip.cli.collector import no_collection


def test_the_body_is_not_collected_and_later_code_is() -> None:
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collection_goes_on_after_a_fault() -> None:
    with pytest.raises(ImportError), no_collection():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize("alone", [True, False])
def test_only_a_program_that_begins_keeps_its_objects(monkeypatch: pytest.MonkeyPatch, alone: bool) -> None:
    kept = []
    monkeypatch.setattr(gc, "freeze", lambda: kept.append(True))
    if alone:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "torch", sys)
    with no_collection():
        pass
    assert bool(kept) is alone
