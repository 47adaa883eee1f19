"""Read-only lists of texts in a file, of which no process holds more than it asked for."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.array_file import ArrayFile


@dataclass(frozen=True)
class StoredTexts:
    """A list of texts in a file: no part of it stays in memory, and pickled it is the file's path.

    Attributes:
        file: Where they are.
        name: Of their arrays, as ``stored_arrays`` has them.
    """

    file: ArrayFile
    name: str

    def __len__(self) -> int:
        return self.file.count(f"{self.name}.bounds") - 1

    def __getitem__(self, index: int) -> str:
        return self.span(index, index + 1)[0]

    def span(self, start: int, stop: int) -> list[str]:
        """Neighbouring texts."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"texts {start} to {stop - 1} of {len(self)}")
        bounds = self.file.read(f"{self.name}.bounds", start, stop + 1).tolist()
        data = self.file.read(f"{self.name}.data", bounds[0], bounds[-1]).tobytes()
        return [
            data[one - bounds[0] : other - bounds[0]].decode("utf-8", "surrogatepass") for one, other in pairwise(bounds)
        ]


def stored_arrays(
    name: str, data: list[NDArray[np.uint8]], bounds: NDArray[np.int64]
) -> dict[str, list[NDArray[Any]]]:
    """The arrays of texts in a file.

    Args:
        name: of these texts.
        data: all texts one after the other, in one or more parts.
        bounds: [n + 1]; text i is ``data[bounds[i]:bounds[i + 1]]``.
    """
    return {f"{name}.data": [*data], f"{name}.bounds": [bounds]}
