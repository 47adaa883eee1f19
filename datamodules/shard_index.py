"""Random access to the files in tar shards."""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.fault_tally import FaultTally, one_line
from datamodules.locations import cache_folder, matching_files
from datamodules.packed_texts import PackedTexts
from datamodules.shard_table import plain_path, shard_table
from datamodules.sources import Fault, UnreadableSample
from datamodules.tars import printable

_MAX_OPEN = 256  # handles per process: the usual limit is 1024, and corpora have thousands of shards


class _Handle:
    """A file descriptor that closes with its last reference, which may be another thread's read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)


def _state(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


class ShardIndex:
    """Where the files of each sample lie in a set of tars.

    The index is one pass over each shard, kept in the cache folder under the shards' paths, sizes and times of change.
    A ``.tar.gz`` is inflated there once, since reading inside it gets slower with the position.

    Args:
        shards: A path, glob or brace pattern, or several of them; read in the order of the file names.
        cache_dir: Folder for the index; default ``PROTOCLIP_CACHE`` or ``~/.cache/protoclip``.

    A damaged shard has the samples before its damage.

    Attributes:
        extensions: of all files.
        shards: how many there are, with those that are missing.
        files: the shards that are there.
        faults: what is wrong with shards, and files that are there twice.
        fingerprint: SHA-256 of names, keys, sizes and small files (captions, labels); not of folders, times, pixels.

    Raises:
        ValueError: no shard matches, or none holds a sample.
    """

    def __init__(self, shards: str | Path | Sequence[str | Path], *, cache_dir: str | Path | None = None) -> None:
        folder = cache_folder(cache_dir)
        missing: list[Fault] = []
        files = [file.absolute() for file in matching_files(shards, report=missing.append)]
        self.shards = len(files) + len(missing)
        self.files = files
        self._names = [file.name for file in files]
        states = [_state(file.stat()) for file in files]
        table = shard_table(files, folder)
        self._tars = [plain_path(file, folder) for file in files]
        # A copy may be inflated anew; the shards themselves are what they were when their index was looked up.
        self._states = [
            state if tar == file else _state(tar.stat())
            for file, tar, state in zip(files, self._tars, states, strict=True)
        ]
        self.faults = FaultTally.from_json(str(table["faults"]))
        for fault in missing:
            self.faults.add(fault)
        self._keys = PackedTexts(table["keys"].tobytes(), table["key_bounds"])
        self._shard = table["shard"]
        self._members = table["members"]
        self.extensions: list[str] = table["extensions"].tolist()
        self.fingerprint = str(table["fingerprint"])
        if not self.extensions:
            for fault in self.faults.first.values():
                raise ValueError(one_line(fault))
            raise ValueError(f"{shards} holds no sample: a shard is a tar of files such as KEY.jpg and KEY.txt")
        self._handles: dict[int, _Handle] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._shard)

    def name(self, sample: int) -> str:
        """Shard and key of a sample, for messages."""
        return f"{self._names[self._shard[sample]]}: {printable(self._keys[sample])}"

    def locate(self, extensions: Sequence[str]) -> NDArray[np.int64]:
        """Where each sample's first file of the given extensions lies that is not empty.

        Returns:
            [len(self), 3]: offset, size and number of the extension; -1 where a sample has none.
        """
        places = np.full((len(self), 3), -1, dtype=np.int64)
        for number, extension in reversed([*enumerate(extensions)]):  # the first one given is written last
            if extension in self.extensions:
                of = (self._members[:, 1] == self.extensions.index(extension)) & (self._members[:, 3] > 0)
                rows = self._members[of]
                places[rows[:, 0], :2] = rows[:, 2:]
                places[rows[:, 0], 2] = number
        return places

    def read(self, sample: int, place: NDArray[np.int64]) -> bytes:
        """The bytes of one file of a sample, given its row of :meth:`locate`.

        Raises:
            UnreadableSample: the shard is gone.
            ValueError: the shard is another than the one that was indexed.
        """
        shard, (offset, size, _) = int(self._shard[sample]), place.tolist()
        try:
            handle = self._handle(shard)  # a name keeps it open while another thread evicts it
            state = _state(os.fstat(handle.descriptor))
            data = os.pread(handle.descriptor, size, offset)
        except OSError as error:
            message = f"{self.name(sample)}: {error.strerror}: bring the shard back"
            raise UnreadableSample(message, "missing_shard") from error
        if state != self._states[shard] or len(data) != size:
            raise ValueError(f"{self._tars[shard]} has changed since it was indexed: start again")
        return data

    def _handle(self, shard: int) -> _Handle:
        if self._process != os.getpid():
            self._handles, self._process = {}, os.getpid()
        handle = self._handles.get(shard)
        if handle is None:
            if len(self._handles) >= _MAX_OPEN:
                self._handles.popitem()
            handle = self._handles[shard] = _Handle(os.open(self._tars[shard], os.O_RDONLY))
        return handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}
