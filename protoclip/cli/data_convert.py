"""``protoclip data convert``: writes a corpus, or a part of it, in another format."""

import io
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from datamodules.sources import Fault, FaultKind, PairSource, Picture, UnreadableSample
from datamodules.writers import (
    FolderWriter,
    JsonLinesWriter,
    PairWriter,
    ParquetWriter,
    ShardWriter,
    TextTableWriter,
    WrittenPair,
)
from protoclip.caches import Sample
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import corpus_samples, drawn, packed, training_pairs
from protoclip.files import make_folder, sync_folder

WRITERS: Mapping[str, Callable[[Path, int], PairWriter]] = {
    "shards": ShardWriter,
    "folder": FolderWriter,
    "csv": partial(TextTableWriter, ending="csv"),
    "tsv": partial(TextTableWriter, ending="tsv"),
    "jsonl": JsonLinesWriter,
    "parquet": ParquetWriter,
}
BY_REFERENCE = {"csv", "tsv", "jsonl", "parquet"}
"""Formats that name pictures where they are, if they are files already and stay as they are."""
ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Of the formats of pictures that are copied byte for byte; others become PNG, which loses nothing."""
JPEG: Mapping[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
"""How pictures are written that were shrunk."""


@dataclass(frozen=True)
class Selection:
    """Which pairs of a corpus; all by default.

    Attributes:
        top: so many with the highest numbers; of equal ones the first.
        by: field of the samples with these numbers.
        subset: so many, drawn.
        seed: of the draw.
    """

    top: int | None = None
    by: str | None = None
    subset: int | None = None
    seed: int = 0

    def of(self, source: PairSource, console: Console) -> Sequence[int]:
        """The chosen pairs, in the order of the corpus.

        Args:
            source: the corpus.
            console: where a bar is while its numbers are read.

        Raises:
            ValueError: a number is below 1 or above the pairs that have one, or ``top`` is without ``by``.
        """
        if (self.top is None) != (self.by is None):
            raise ValueError("--top and --by go together, such as --top 1000000 --by similarity: give both, or neither")
        chosen: Sequence[int] = range(len(source))
        if self.top is not None and self.by is not None:
            chosen = _highest(source, self.top, self.by, console)
        if self.subset is not None:
            if self.subset > len(chosen):
                raise ValueError(f"--subset {self.subset} of {len(chosen)} pairs: give a smaller one, or leave it out")
            places = drawn(len(chosen), self.subset, self.seed, "--subset")
            chosen = array("q", (chosen[place] for place in places))
        return chosen


def convert_corpus(
    words: Sequence[str],
    out: Path,
    *,
    to: str,
    selection: Selection,
    per_shard: int = 10_000,
    resize: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> None:
    """Write the pairs of a config's corpus that can be read; those that cannot are left out and counted.

    Pictures are copied byte for byte where they are kept as JPEG, PNG or WebP. ``out`` appears when all is written.

    Args:
        words: Hydra overrides, such as ``data=manifest data.path=pairs.tsv``.
        out: the folder.
        to: a key of ``WRITERS``.
        selection: of pairs.
        per_shard: pairs of a shard or a sub-folder.
        resize: shorter side that larger pictures are shrunk to.
        workers: processes that read; ``num_workers`` of the config by default.
        console: where to print.

    Raises:
        ValueError: the folder is there, the corpus cannot be opened, or no pair can be read.
    """
    for option, number in (("--per-shard", per_shard), ("--resize", resize)):
        if number is not None and number < 1:
            raise ValueError(f"{option} {number}: give 1 or more")
    config, console = compose_config(words), console or Console()
    with _appearing(out) as folder:
        source = training_pairs(config)
        pairs = selection.of(source, console)
        prepare = partial(_prepared, resize=resize, by_reference=to in BY_REFERENCE)
        processes = config.num_workers if workers is None else workers
        samples = corpus_samples(source, prepare, "converting", processes, console, pairs=pairs)(0)
        faults: Counter[FaultKind] = Counter()
        examples: dict[FaultKind, str] = {}
        with WRITERS[to](folder, per_shard) as writer:
            for sample in samples:
                assert sample is not None
                if isinstance(sample[0], Fault):
                    faults[sample[0].kind] += 1
                    examples.setdefault(sample[0].kind, sample[0].reason)
                else:
                    writer.write(sample[0])
        written = len(pairs) - faults.total()
        for kind, count in faults.items():
            console.print(f"left out: {count:,} {kind}, such as {examples[kind]}", soft_wrap=True)
        if written == 0:
            raise ValueError(f"none of {len(pairs)} pairs can be read: protoclip data check tells why")
    console.print(f"wrote {written:,} of {len(source):,} pairs to {out}", soft_wrap=True)


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A new folder that becomes ``out`` when the body is done, and is removed when it fails."""
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} is there already: choose a new folder, or remove it")
    folder = out.with_name(f".{out.name}.partial")
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        told = "is written by another conversion, or was left by one that was killed"
        raise ValueError(f"{folder} {told}: wait for it, or remove it") from None
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(out.parent)


def _highest(source: PairSource, size: int, field: str, console: Console) -> Sequence[int]:
    numbers = source.numbers(field)
    if numbers is None:
        numbers = _numbers(source, field, console)
    known = np.flatnonzero(~np.isnan(numbers))
    if not 1 <= size <= len(known):
        told = f"--top {size}: {len(known)} of {len(source)} pairs have a number {field!r}"
        raise ValueError(f"{told}: give another --by, or --top from 1 to that")
    return packed(np.sort(known[np.argsort(-numbers[known], kind="stable")[:size]]))


def _numbers(source: PairSource, field: str, console: Console) -> NDArray[np.float64]:
    """A field of each pair, NaN where it is no number."""
    numbers = np.full(len(source), np.nan)
    hidden = not console.is_terminal
    for index in track(range(len(source)), f"reading {field}", console=console, transient=True, disable=hidden):
        with suppress(UnreadableSample):
            value = source.fields(index).get(field)
            numbers[index] = value if isinstance(value, int | float) else np.nan
    return numbers


def _prepared(source: PairSource, index: int, resize: int | None, by_reference: bool) -> Sample:
    """One item: a pair to write, or the fault that it has."""
    try:
        captions, picture = source.captions(index), _pil(source.image(index))
        fields = source.fields(index)
        shrunk = resize is not None and min(picture.size) > resize
        data = None if shrunk else source.encoded(index)
    except UnreadableSample as error:
        return [Fault(error.kind, source.key(index), str(error))]
    if resize is not None and shrunk:
        picture = _shrink(picture, resize)
    ending = None if data is None else _ending(data)
    if data is None or ending is None:
        data, ending = _encode(picture, JPEG if shrunk else {"format": "PNG"}), "jpg" if shrunk else "png"
    width, height = picture.size
    described = {**fields, "source": source.key(index), "width": width, "height": height}
    file = source.file(index) if by_reference and not shrunk else None
    return [WrittenPair(data, ending, captions, described, file and file.absolute())]


def _pil(picture: Picture) -> Image.Image:
    if isinstance(picture, Tensor):
        return Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
    return picture


def _shrink(picture: Image.Image, side: int) -> Image.Image:
    """To a shorter side."""
    width, height = (max(side, round(length * side / min(picture.size))) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _ending(data: bytes) -> str | None:
    """Of a picture's file name, None where other programs may not read the format."""
    with Image.open(io.BytesIO(data)) as picture:
        return ENDINGS.get(picture.format or "")


def _encode(picture: Image.Image, options: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()
