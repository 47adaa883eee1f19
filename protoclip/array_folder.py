"""Named arrays in a folder of ``.npy`` files, read memory-mapped; a sidecar, written last, says what they are."""

import json
from collections.abc import Iterable, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protoclip.files import replacing

SIDECAR = "arrays.json"

Array: TypeAlias = NDArray[Any]


def write_arrays(folder: Path, arrays: Mapping[str, tuple[int, Iterable[Array]]], facts: Mapping[str, Any]) -> None:
    """Write arrays, each given by its rows and by parts of them, and then the sidecar.

    Args:
        folder: is there.
        arrays: by name.
        facts: what JSON can hold, to be kept beside them.
    """
    described: dict[str, dict[str, Any]] = {}
    for name, (rows, parts) in arrays.items():
        file = folder / f"{name}.npy"
        written = 0
        with replacing(file) as whole:
            for part in parts:
                if not written:
                    shape, dtype = (rows, *part.shape[1:]), part.dtype
                    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(whole, header)
                assert (part.dtype, part.shape[1:]) == (dtype, shape[1:]), f"{name}: parts of several kinds"
                whole.write(np.ascontiguousarray(part).data)
                written += len(part)
        assert written == rows, f"{name}: {written} of {rows} rows"
        described[name] = {"shape": [*shape], "dtype": dtype.str, "sha256": _digest(file)}
    with replacing(folder / SIDECAR) as whole:
        whole.write(json.dumps({**facts, "arrays": described}, indent=2).encode() + b"\n")


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What was written beside the arrays, which are not looked at; None where there is no sidecar.

    Raises:
        ValueError: the sidecar is damaged.
    """
    if not (folder / SIDECAR).exists():
        return None
    return _described(folder)


def read_arrays(folder: Path, *, check: bool = False) -> dict[str, Array]:
    """The arrays by name, memory-mapped; what is written to them stays in this process.

    Args:
        folder: of the arrays.
        check: whether the files are read through once to see that they are what was written.

    Raises:
        ValueError: a file is missing or damaged, or not the one that the sidecar tells of.
    """
    arrays: dict[str, Array] = {}
    for name, told in _described(folder)["arrays"].items():
        file = folder / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split()) if file.exists() else f"{file.name} is missing"
            raise damaged(folder, reason) from error
        if [*array.shape] != told["shape"] or array.dtype.str != told["dtype"]:
            raise damaged(folder, f"{file.name} is {array.dtype} {array.shape}, {SIDECAR} tells of another")
        if check and _digest(file) != told["sha256"]:
            raise damaged(folder, f"{file.name} is not the one that {SIDECAR} tells of")
        arrays[name] = array
    return arrays


def damaged(folder: Path, reason: str) -> ValueError:
    """What to raise of a folder that cannot be used."""
    return ValueError(f"{folder} is damaged or stale ({reason}): remove the folder and run the same command again")


def _described(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        arrays = facts["arrays"].values()
        if not all({"shape", "dtype", "sha256"} <= told.keys() for told in arrays):
            raise KeyError("arrays")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, f"{SIDECAR} cannot be read") from error
    assert isinstance(facts, dict)
    return facts


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()
