"""Whole or absent (protoclip/files.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from protoclip.files import remove_stale, replacing, temporary_beside, whole_folder


def test_the_old_file_stays_until_the_body_is_done(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert sorted(tmp_path.iterdir()) == [temporary_beside(path), path]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_on_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    path = tmp_path / "file"

    def fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"{'folder' if target == tmp_path else 'content'}, {'new' if path.exists() else 'old'} name")

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(path):
        pass
    assert done == ["content, old name", "folder, new name"]


def test_temporary_files_of_dead_writers_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {number: tmp_path / f".last.ckpt.{number}.tmp" for number in (dead.pid, os.getpid(), os.getppid())}
    others = [tmp_path / ".notes.tmp", tmp_path / "last.ckpt"]
    for file in (*names.values(), *others):
        file.touch()
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([names[os.getppid()], *others])


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    dead = path.with_name(".folder.999999999.partial")
    (dead / "file").parent.mkdir(parents=True)
    (dead / "file").write_bytes(b"half")

    def fill(*, fails: bool) -> None:
        with whole_folder(path) as folder:
            (folder / "file").write_bytes(b"new")
            assert sorted(path.parent.iterdir()) == [folder]
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(fails=True)
    assert list(path.parent.iterdir()) == []
    fill(fails=False)
    assert (path / "file").read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match="folder exists: give a folder that does not"):
        fill(fails=False)
