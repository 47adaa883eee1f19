"""Read-only lists of texts in a file, of which no process holds more than it asked for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.array_file import ArrayFile, ArrayWriter


@dataclass(frozen=True)
class StoredTexts:
    """A list of texts in a file, as :func:`store_texts` has written it; pickled it is the file's path.

    Attributes:
        file: where they are.
        name: of these texts.
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
        places = pairwise(bound - bounds[0] for bound in bounds)
        return [data[one:other].decode("utf-8", "surrogatepass") for one, other in places]


def store_texts(writer: ArrayWriter, name: str, chunks: Iterable[pa.Array]) -> None:
    """Write texts for :class:`StoredTexts`, a chunk after the other.

    Args:
        writer: of the file.
        name: of these texts.
        chunks: of type ``string``, ``binary`` or either large one, without nulls.
    """
    lengths: list[NDArray[Any]] = []

    def data() -> Iterator[NDArray[np.uint8]]:
        for chunk in chunks:
            content, bounds = text_buffers(chunk)
            lengths.append(np.diff(bounds))
            yield content[bounds[0] : bounds[-1]]

    writer.add(f"{name}.data", data(), "|u1")
    writer.add_bounds(f"{name}.bounds", lengths)


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """The bytes that texts lie in, and where each begins, and the last one ends, in them [n + 1]."""
    if len(texts) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int32)
    large = pa.types.is_large_binary(texts.type) or pa.types.is_large_string(texts.type)
    _, offsets, content = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64 if large else np.int32)
    return np.frombuffer(content or b"", np.uint8), bounds[texts.offset : texts.offset + len(texts) + 1]


def blank_texts(texts: pa.Array) -> NDArray[np.bool_]:
    """Where there is no text, or one of white space."""
    if pa.types.is_binary(texts.type):
        decoded = (None if text is None else text.decode("utf-8", "surrogatepass") for text in texts.to_pylist())
        return np.array([text is None or not text.strip() for text in decoded], bool)
    content, bounds = text_buffers(texts)
    doubtful: NDArray[np.bool_] = np.diff(bounds) == 0
    doubtful[~doubtful] = content[bounds[:-1][~doubtful]] - np.uint8(33) > 93  # what does not begin with visible ASCII
    if doubtful.any():
        some = texts.filter(pa.array(doubtful))
        blank = pc.or_(pc.utf8_is_space(some), pc.equal(pc.binary_length(some), 0))
        doubtful[doubtful] = np.asarray(blank.fill_null(True))
    return doubtful
