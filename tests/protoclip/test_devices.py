"""Devices by name."""

import pytest
import torch

from protoclip.devices import chosen_device


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_device("cpu", "teacher.device") == torch.device("cpu")
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert chosen_device("auto", "teacher.device").type == kind


def test_a_device_that_is_not_there_is_told_with_its_option() -> None:
    with pytest.raises(ValueError, match=r"^torch has no device 'nowhere' here: set teacher\.device=auto$"):
        chosen_device("nowhere", "teacher.device")
