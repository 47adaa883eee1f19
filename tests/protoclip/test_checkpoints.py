"""A checkpoint is whole, or refused (protoclip/checkpoints.py)."""

import errno
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from protoclip.checkpoints import AtomicCheckpointIO, read_checkpoint
from protoclip.files import temporary_beside

SIZE = 50_000


def state(value: float) -> dict[str, Any]:
    weights = {"weight": torch.full((SIZE,), value)}
    return {"state_dict": weights, "epoch": int(value), "pytorch-lightning_version": "2"}


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """The last of three checkpoints."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    for value in (1.0, 2.0, 3.0):
        AtomicCheckpointIO().save_checkpoint(state(value), path)
    return path


def epochs(folder: Path) -> dict[str, int]:
    return {path.name: read_checkpoint(path)["epoch"] for path in folder.iterdir()}


def test_the_replaced_last_one_is_the_previous_one(last: Path) -> None:
    assert epochs(last.parent) == {"last.ckpt": 3, "previous.ckpt": 2}
    AtomicCheckpointIO().save_checkpoint(state(9), last.with_name("best.ckpt"))
    AtomicCheckpointIO().save_checkpoint(state(8), last.with_name("best.ckpt"))
    assert epochs(last.parent) == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 8}


def test_the_first_one_has_no_previous_one(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(state(1), tmp_path / "last.ckpt")
    assert epochs(tmp_path) == {"last.ckpt": 1}


def test_the_previous_one_costs_no_writing(last: Path) -> None:
    inode = last.stat().st_ino
    AtomicCheckpointIO().save_checkpoint(state(4), last)
    assert last.with_name("previous.ckpt").stat().st_ino == inode


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", range(4))
def test_a_kill_between_any_two_steps_leaves_two_whole_checkpoints(
    last: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Every change of the folder in turn is the last that happens; a dead process cleans up nothing."""
    calls = 0

    def dying(name: str) -> Callable[..., Any]:
        change = getattr(Path, name)

        def changed(self: Path, *args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > call:
                raise Killed
            return change(self, *args, **options)

        return changed

    for name in ("replace", "hardlink_to", "unlink"):
        monkeypatch.setattr(Path, name, dying(name))
    with pytest.raises(Killed):
        AtomicCheckpointIO().save_checkpoint(state(4), last)
    monkeypatch.undo()
    found = {name: epoch for name, epoch in epochs(last.parent).items() if not name.startswith(".")}
    assert found in ({"last.ckpt": 3, "previous.ckpt": 2}, {"last.ckpt": 4, "previous.ckpt": 2},
                     {"last.ckpt": 4, "previous.ckpt": 3})  # fmt: skip
    AtomicCheckpointIO().save_checkpoint(state(5), last)
    assert epochs(last.parent) == {"last.ckpt": 5, "previous.ckpt": found["last.ckpt"]}


def test_a_file_system_without_links_keeps_no_previous_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(number: int) -> Callable[..., None]:
        def link(self: Path, target: Path) -> None:
            raise OSError(number, "link")

        return link

    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(state(1), path)
    monkeypatch.setattr(Path, "hardlink_to", refused(errno.EPERM))
    AtomicCheckpointIO().save_checkpoint(state(2), path)
    assert epochs(tmp_path) == {"last.ckpt": 2}
    monkeypatch.setattr(Path, "hardlink_to", refused(errno.EDQUOT))
    with pytest.raises(OSError, match="link"):
        AtomicCheckpointIO().save_checkpoint(state(3), path)
    assert epochs(tmp_path) == {"last.ckpt": 2}


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond a tenth of a checkpoint."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE * 4 // 10, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_the_disk_says_comes_through(last: Path, small_disk: None) -> None:
    """torch turns it into a RuntimeError about positions in an archive."""
    with pytest.raises(OSError, match="File too large") as raised:
        AtomicCheckpointIO().save_checkpoint(state(4), last)
    assert raised.value.errno == errno.EFBIG
    assert epochs(last.parent) == {"last.ckpt": 3, "previous.ckpt": 2}


def test_a_full_disk_is_enospc(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.file, self.room = file, SIZE

        def write(self, data: Any) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    def save_to_full(content: object, file: BinaryIO) -> None:
        save(content, Full(file))  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "save", save_to_full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        AtomicCheckpointIO().save_checkpoint(state(4), last)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(temporary_beside(last))
    assert epochs(last.parent) == {"last.ckpt": 3, "previous.ckpt": 2}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "torn": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "one bit": lambda content: content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1])
    + content[len(content) // 2 + 1 :],
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_the_way_on(last: Path, damage: str) -> None:
    last.write_bytes(DAMAGES[damage](last.read_bytes()))
    previous = last.with_name("previous.ckpt")
    with pytest.raises(ValueError, match=r"damaged \(.+\): .* mv ") as raised:
        AtomicCheckpointIO().load_checkpoint(last)
    told = str(raised.value)
    assert told.startswith(f"{last} is damaged (")
    assert told.endswith(f"): to go on after the episode before it, mv {previous} {last}")
    assert "\n" not in told
    previous.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"remove it to start anew$"):
        read_checkpoint(last)
    previous.unlink()
    with pytest.raises(ValueError, match=r"remove it to start anew$"):
        read_checkpoint(last)


def test_nothing_that_runs_code_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"score": np.float64(1)}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_a_missing_one_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "last.ckpt")
