"""Handles of shards, and shards that are no longer those that were indexed."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from datamodules import shard_index as shard_index_module
from datamodules.shards import ShardPairs
from datamodules.sources import UnreadableSample
from tests.datamodules.test_shards import pair, write_tar


def test_handles_are_the_process_own_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(4):
        write_tar(tmp_path / f"s-{shard}.tar", pair("k", shard, f"text {shard}"))
    monkeypatch.setattr(shard_index_module, "_MAX_OPEN", 2)
    source = ShardPairs(tmp_path / "s-?.tar", cache_dir=tmp_path / "cache")
    links = Path("/proc/self/fd")
    if not links.exists():
        pytest.skip("needs /proc")

    def opened() -> list[str]:
        return [name for link in links.iterdir() if (name := str(link.resolve())).startswith(str(tmp_path))]

    assert opened() == []
    for _ in range(2):
        assert [source.captions(i)[0] for i in range(4)] == [f"text {shard}" for shard in range(4)]
        assert len(opened()) == 2
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        source.captions(0)
        os.write(write, bytes([len(opened())]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"\x01"
    del source
    assert opened() == []


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_that_changes_is_an_error_and_no_bad_sample(tmp_path: Path, suffix: str) -> None:
    path = write_tar(tmp_path / f"s{suffix}", [*pair("a", 0, "ab"), *pair("b", 1, "cd")])

    def opened() -> ShardPairs:
        return ShardPairs(path, cache_dir=tmp_path / "cache")

    def changed(source: ShardPairs) -> None:
        with pytest.raises(ValueError, match=rf"{tar} has changed since it was indexed: start again$") as caught:
            source.captions(0)
        assert not isinstance(caught.value, UnreadableSample)

    source = opened()
    tar = path if suffix == ".tar" else next((tmp_path / "cache").glob("s-*.tar"))
    assert source.captions(0) == ["ab"]  # the handle is open by now
    os.utime(tar, ns=(1, 1))
    changed(source)
    changed(pickle.loads(pickle.dumps(source)))
    assert opened().captions(0) == ["ab"]  # indexed again
    fresh = opened()
    shutil.copyfile(tar, tmp_path / "copy")
    os.truncate(tar, 1024)
    changed(fresh)
    (tmp_path / "copy").replace(tar)
    changed(fresh)
    assert opened().captions(0) == ["ab"]
    tar.unlink()
    with pytest.raises(UnreadableSample, match="bring the shard back") as caught:
        pickle.loads(pickle.dumps(fresh)).captions(0)
    assert caught.value.kind == "missing_shard"
