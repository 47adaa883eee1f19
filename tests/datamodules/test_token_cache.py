import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.token_cache import TokenCache

LENGTH = 8
IDS = torch.arange(LENGTH) + 49_400


def opened(folder: Path, **changes: Any) -> TokenCache:
    options = {"fingerprint": "f", "tokenizer": "bpe", "captions": 1000, "context_length": LENGTH, "vocab_size": 49_409}
    return TokenCache(folder, **{**options, **changes})


def file_of(folder: Path) -> Path:
    (path,) = folder.glob("tokens-*.bin")
    return path


@pytest.mark.parametrize(("vocab_size", "largest"), [(2**16, 2**16 - 1), (2**16 + 1, 2**16)])
def test_ids_are_there_once_they_are_kept_for_whoever_opens_the_table(
    tmp_path: Path, vocab_size: int, largest: int
) -> None:
    ids = IDS.clone()
    ids[3] = largest
    writer, reader = (opened(tmp_path, vocab_size=vocab_size) for _ in range(2))
    assert reader.rows(7) is None
    writer.keep(7, ids)
    writer.keep(7, ids)
    found = reader.rows(7)
    assert found is not None
    assert found.dtype == torch.int64
    assert torch.equal(found, ids)
    copied = pickle.loads(pickle.dumps(reader)).rows(7)
    assert torch.equal(copied, ids)
    assert len(pickle.dumps(reader)) < 1000


def test_a_hole_a_torn_row_and_a_cut_file_count_as_absent(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.keep(900, IDS)  # what lies before it is a hole
    assert cache.rows(0) is cache.rows(899) is cache.rows(999) is None
    path = file_of(tmp_path)
    width = path.stat().st_size // 901
    whole = path.read_bytes()
    for byte in range(900 * width, 901 * width):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :])
        assert cache.rows(900) is None
    os.truncate(path, len(whole) - 1)
    assert cache.rows(900) is None
    cache.keep(900, IDS)
    assert torch.equal(cache.rows(900), IDS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed", [{"fingerprint": "g"}, {"tokenizer": "wordpiece"}, {"context_length": 9}, {"vocab_size": 2**17}]
)
def test_other_captions_or_ids_have_a_table_of_their_own(tmp_path: Path, changed: dict[str, Any]) -> None:
    opened(tmp_path).keep(0, IDS)
    assert opened(tmp_path, **changed).rows(0) is None


def test_rows_beyond_the_end_and_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for number in (-1, 1000):
        with pytest.raises(IndexError):
            cache.rows(number)
        with pytest.raises(IndexError):
            cache.keep(number, IDS)
    with pytest.raises(ValueError, match=r"^cannot write .*: set PROTOCLIP_CACHE$"):
        opened(tmp_path / "absent")


def test_a_full_disk_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened(tmp_path)
    cache.keep(0, IDS)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    cache.keep(1, IDS)
    cache.keep(2, IDS)
    assert caplog.text.count("No space left") == 1
    assert cache.rows(1) is None
    assert cache.rows(0) is not None


def test_a_large_table_is_told_when_it_is_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        opened(tmp_path)
        assert not caplog.text
        opened(tmp_path, captions=10**8, context_length=77).keep(0, torch.arange(77))
        opened(tmp_path, captions=10**8, context_length=77)
    assert caplog.text.count("will grow to 15.8 GB") == 1
