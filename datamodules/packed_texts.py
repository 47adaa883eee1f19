"""Read-only lists of texts in two buffers, which workers share."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PackedTexts:
    """A read-only list of texts in two buffers: forked workers share it, where a list of str is copied by refcounts.

    Attributes:
        data: All texts one after the other, UTF-8.
        bounds: [n + 1]; text i is ``data[bounds[i]:bounds[i + 1]]``.
    """

    data: bytes
    bounds: NDArray[np.int64]

    @classmethod
    def pack(cls, texts: Iterable[str]) -> "PackedTexts":
        """Pack texts; lone surrogates (undecodable file names) survive."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        return cls(b"".join(encoded), np.fromiter(accumulate(map(len, encoded), initial=0), np.int64))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self.data[self.bounds[index] : self.bounds[index + 1]].decode("utf-8", "surrogatepass")
