"""Features of picture sets on the disk: encoded once, batch by batch, and read memory-mapped by every task.

A set has a folder (see ``protoclip.array_folder``) of ``image_embedding``, ``labels``, ``text_embedding`` and ``owner``
where there are captions, the outputs of heads, and tokens where a task asks for them. ``features`` are the embeddings
at unit length: they are not kept twice. The folder ``prompts`` in it has ``class_features`` and what tasks ask of each
prompt. Both say what they are of; what is of something else is made anew.

Until a set is whole, each batch that is done is a file of ``parts``, whole or absent: killed at any moment, the next
process makes the other batches, and the bytes of the result are the same.
"""

import json
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from protoclip.array_folder import Array, damaged, read_arrays, read_facts, write_arrays
from protoclip.evaluation.task import Extracted
from protoclip.files import replacing
from protoclip.towers import Towers
from protoclip.towers.image import unit

PARTS = "parts"
BEGUN = "of.json"
PROMPTS = "prompts"
VERSION = 1
"""Of the files, and of what is computed of the same weights and pictures."""

Identity = Mapping[str, Any]


def model_identity(towers: Towers, heads: nn.Module) -> str:
    """Hash of all that features are computed with: the parts, their weights and buffers."""
    built = [towers.config, towers.not_in_open_clip, repr(towers), repr(heads)]
    digest = sha256(json.dumps(built, sort_keys=True, default=str).encode())
    for part in (towers, heads):
        for name, value in part.state_dict().items():
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {[*plain.shape]}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class FeatureStore:
    """The features of a set, stored or to be stored.

    Attributes:
        folder: of the set.
        identity: what they depend on, in what JSON can hold.
        outputs: those that tasks ask for, beyond what is always kept.
        size: pictures of the set.
        batch_size: pictures of a batch.
    """

    folder: Path
    identity: Identity
    outputs: Collection[str]
    size: int
    batch_size: int

    def begin(self) -> list[int]:
        """Numbers of the batches that are on the disk; what is of other features is removed.

        Raises:
            ValueError: what there is is damaged.
        """
        if _holds(self.folder, self._described, self.outputs):
            read_arrays(self.folder, check=True)
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)  # of a process that was killed in between
            return [*range(self._batches)]
        begun, described = self.folder / PARTS / BEGUN, json.dumps([self._described, sorted(self.outputs)])
        if not begun.exists() or begun.read_text(encoding="utf-8") != described:
            shutil.rmtree(self.folder, ignore_errors=True)
            begun.parent.mkdir(parents=True)
            with replacing(begun) as file:
                file.write(described.encode())
        return sorted(self._parts)

    def write(self, batch: Mapping[str, Array], process: int = 0) -> None:
        """Keep a batch.

        Args:
            batch: ``index`` and ``label`` of the pictures, ``owner`` of captions, and ``TOWER/OUTPUT`` arrays.
            process: that made it; each writes into a folder of its own.
        """
        file = self.folder / PARTS / str(process) / f"{int(batch['index'][0]) // self.batch_size}.npz"
        file.parent.mkdir(exist_ok=True)
        kept: dict[str, Any] = {name.replace("/", "_"): value for name, value in batch.items()}
        for tower in ("image", "text"):
            if f"{tower}_embedding" in kept:
                del kept[f"{tower}_features"]
        with replacing(file) as whole:
            np.savez(whole, **kept)

    def finish(self) -> None:
        """Put the batches together, where that is not done.

        Raises:
            ValueError: a batch is damaged.
        """
        if read_facts(self.folder) is not None:
            return
        parts = self._parts
        assert parts.keys() == {*range(self._batches)}, f"{self.folder}: {len(parts)} of {self._batches} batches"
        files = [parts[number] for number in range(self._batches)]
        names = self._read(files[0]).keys() - {"index"}
        captions = sum(len(self._read(file, "owner")["owner"]) for file in files) if "owner" in names else 0
        arrays = {
            {"label": "labels"}.get(name, name): (
                captions if name == "owner" or name.startswith("text_") else self.size,
                self._column(files, name),
            )
            for name in sorted(names)
        }
        write_arrays(self.folder, arrays, {"identity": self._described, "outputs": sorted(self.outputs)})
        shutil.rmtree(self.folder / PARTS)

    def has_prompts(self, identity: Identity, outputs: Collection[str]) -> bool:
        """Whether the class features of these prompts are there, with the outputs that tasks ask for.

        Raises:
            ValueError: they are damaged.
        """
        if not _holds(self.folder / PROMPTS, _plain(identity), outputs):
            return False
        read_arrays(self.folder / PROMPTS, check=True)
        return True

    def write_prompts(
        self,
        identity: Identity,
        outputs: Collection[str],
        class_features: Tensor,
        prompts: Mapping[str, Tensor],
        classnames: Sequence[str],
    ) -> None:
        """Keep what ``has_prompts`` looks for; ``prompts`` of the identity is the hash of the prompts."""
        shutil.rmtree(self.folder / PROMPTS, ignore_errors=True)
        (self.folder / PROMPTS).mkdir()
        named = {"class_features": class_features, **{f"prompts_{name}": value for name, value in prompts.items()}}
        arrays = {name: (len(value), [value.numpy()]) for name, value in named.items()}
        facts = {"identity": _plain(identity), "outputs": sorted(outputs), "classnames": list(classnames)}
        write_arrays(self.folder / PROMPTS, arrays, facts)

    @property
    def _described(self) -> dict[str, Any]:
        own = {"pictures": self.size, "batch_size": self.batch_size, "version": VERSION}
        return _plain({**self.identity, **own})

    @property
    def _batches(self) -> int:
        return -(-self.size // self.batch_size)

    @property
    def _parts(self) -> dict[int, Path]:
        return {int(file.stem): file for file in (self.folder / PARTS).glob("*/*.npz")}

    def _column(self, files: Iterable[Path], name: str) -> Iterator[Array]:
        return (self._read(file, name)[name] for file in files)

    def _read(self, file: Path, *names: str) -> dict[str, Array]:
        """Arrays of a batch, all where none is named."""
        try:
            with np.load(file, allow_pickle=False) as part:
                return {name: part[name] for name in names or part.files}
        except (BadZipFile, EOFError, KeyError, OSError, ValueError, zlib.error) as error:
            raise damaged(self.folder, f"{file.relative_to(self.folder)} cannot be read") from error


def read_features(folder: Path, *, check: bool = False) -> Extracted:
    """The features of a set, memory-mapped, rows in the set's order.

    Args:
        folder: of the set.
        check: whether all of it is compared with the hashes of what was written.

    Raises:
        ValueError: something is missing or damaged.
    """
    arrays = {name: torch.from_numpy(array) for name, array in read_arrays(folder, check=check).items()}
    return Extracted(
        image=StoredOutputs(_named(arrays, "image_")),
        labels=arrays["labels"],
        text=StoredOutputs(_named(arrays, "text_")),
        owner=arrays.get("owner", torch.empty(0, dtype=torch.int64)),
        **_read_prompts(folder / PROMPTS, check=check),
    )


def _read_prompts(folder: Path, *, check: bool) -> dict[str, Any]:
    facts = read_facts(folder)
    if facts is None:
        return {}
    arrays = {name: torch.from_numpy(array) for name, array in read_arrays(folder, check=check).items()}
    return {
        "class_features": arrays["class_features"],
        "prompts": _named(arrays, "prompts_"),
        "prompts_hash": facts["identity"]["prompts"],
        "classnames": tuple(facts["classnames"]),
    }


class StoredOutputs(Mapping[str, Tensor]):
    """Outputs of a tower by name; ``features`` are made of the embeddings when they are first asked for.

    Args:
        outputs: that are stored.
    """

    def __init__(self, outputs: Mapping[str, Tensor]) -> None:
        self._outputs = outputs
        self._names = dict.fromkeys([*outputs, *(["features"] if "embedding" in outputs else [])])

    @cached_property
    def _features(self) -> Tensor:
        return unit(self._outputs["embedding"])

    def __getitem__(self, name: str) -> Tensor:
        return self._outputs[name] if name in self._outputs or name not in self._names else self._features

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _holds(folder: Path, identity: Identity, outputs: Collection[str]) -> bool:
    facts = read_facts(folder)
    return facts is not None and facts.get("identity") == identity and set(outputs) <= {*facts.get("outputs", ())}


def _named(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _plain(identity: Identity) -> dict[str, Any]:
    """As JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain
