"""``protoclip data check``: reads a corpus and tells what is in it, and what is wrong with it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

from datamodules.sources import Fault, FaultKind, PairSource, Picture, UnreadableSample
from protoclip.caches import Sample
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import corpus_samples, drawn, training_pairs
from protoclip.cli.data_statistics import Distinct, Hashes, Moments, english_words, hashes, quantiles
from protoclip.files import make_folder, replacing

NO_LIST = "not counted: pip install pyspellchecker"
QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class _Read(NamedTuple):
    """What is kept of a pair."""

    captions: Hashes
    lengths: list[int]
    words: Hashes
    english: tuple[int, int] | None
    pixels: Hashes
    size: tuple[int, int]


class Figures:
    """Sums over the pairs that were read."""

    def __init__(self) -> None:
        self.pairs = 0
        self.faults: Counter[FaultKind] = Counter()
        self.examples: dict[FaultKind, str] = {}
        self.captions, self.words, self.pixels = Distinct(), Distinct(), Distinct()
        self.lengths = Moments()
        self.english: tuple[int, int] | None = (0, 0)
        self.widths: Counter[int] = Counter()
        self.heights: Counter[int] = Counter()
        self.smallest: tuple[int, int] | None = None

    def add(self, read: _Read | Fault) -> None:
        """Take in a pair, or why it cannot be used."""
        if isinstance(read, Fault):
            self.faults[read.kind] += 1
            self.examples.setdefault(read.kind, read.reason)
            return
        self.pairs += 1
        self.captions.add(read.captions)
        self.words.add(read.words)
        self.pixels.add(read.pixels)
        self.lengths.add(read.lengths)
        if self.english is None or read.english is None:
            self.english = None
        else:
            self.english = (self.english[0] + read.english[0], self.english[1] + read.english[1])
        self.widths[read.size[0]] += 1
        self.heights[read.size[1]] += 1
        self.smallest = min(self.smallest or read.size, read.size, key=lambda size: (min(size), max(size)))

    def report(self) -> dict[str, Any]:
        """All figures as plain numbers, None for what cannot be known."""
        some = self.pairs > 0
        english, words = self.english or (0, 0)
        return {
            "readable": self.pairs,
            "unreadable": {
                kind: {"pairs": count, "example": self.examples[kind]} for kind, count in self.faults.items()
            },
            "captions": self.captions.total,
            "words_per_caption": {"mean": self.lengths.mean, "std": self.lengths.std} if some else None,
            "english_words": english / words if words else None,
            "unique_words": self.words.count,
            "equal_captions": self.captions.total - self.captions.count,
            "equal_pictures": self.pixels.total - self.pixels.count,
            "widths": quantiles(self.widths, QUARTILES) if some else None,
            "heights": quantiles(self.heights, QUARTILES) if some else None,
            "smallest_picture": self.smallest,
        }


def check_corpus(
    words: Sequence[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    out: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Read the pairs of a config's corpus; print and return what they are.

    Words are what white space parts (CLIP-benchmark's "unique tokens", case and punctuation kept); which of them are
    English is said in ``english_words``. Equal pictures have the same pixels. Memory is 8 bytes for each distinct
    caption, word and picture.

    Args:
        words: Hydra overrides, such as ``data=manifest data.path=pairs.tsv``.
        limit: read so many pairs instead of all.
        seed: of their draw.
        workers: processes that read; ``num_workers`` of the config by default.
        out: JSON file for what is found.
        console: where to print.

    Raises:
        ValueError: the corpus cannot be opened, the limit is below 1, or the file is a folder or cannot be.
    """
    if out is not None and out.is_dir():
        raise ValueError(f"{out} is a folder: give --out a file, such as {out / 'check.json'}")
    if out is not None:
        make_folder(out.parent)
    config = compose_config(["data.max_faults=1", *words])  # what is wrong is to be told, and not to stop here
    console = console or Console()
    source = training_pairs(config)
    pairs = range(len(source)) if limit is None else drawn(len(source), limit, seed, "--limit")
    figures = Figures()
    processes = config.num_workers if workers is None else workers
    for sample in corpus_samples(source, _read, "reading", processes, console, pairs=pairs)(0):
        assert sample is not None
        figures.add(sample[0])
    report = {
        "corpus": config.data.name,
        "fingerprint": source.fingerprint,
        "pairs": len(source),
        "expected_pairs": config.data.get("expected_pairs"),
        "left_out": dict(source.faults),
        "read": len(pairs),
        **figures.report(),
    }
    console.print(_table(report))
    if out is not None:
        with replacing(out) as file:
            file.write(json.dumps(report, indent=2, ensure_ascii=False).encode("utf-8", "surrogateescape"))
        console.print(f"wrote {out}", soft_wrap=True)
    return report


def _read(source: PairSource, index: int) -> Sample:
    """One item: what is kept of a pair, or its fault."""
    try:
        captions = source.captions(index)
        picture = source.image(index)
    except UnreadableSample as error:
        return [Fault(error.kind, source.key(index), str(error))]
    pixels, size = _pixels(picture)
    parts = [caption.split() for caption in captions]
    found = [word for part in parts for word in part]
    return [
        _Read(
            captions=hashes(caption.encode("utf-8", "surrogatepass") for caption in captions),
            lengths=[len(part) for part in parts],
            words=hashes(word.encode("utf-8", "surrogatepass") for word in found),
            english=english_words(found),
            pixels=hashes([pixels]),
            size=size,
        )
    ]


def _pixels(picture: Picture) -> tuple[bytes, tuple[int, int]]:
    """The pixels with their shape, and the width and height."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[1:] if isinstance(picture, Tensor) else pixels.shape[:2]
    return repr((width, height)).encode() + pixels.tobytes(), (width, height)


def _table(report: dict[str, Any]) -> Table:
    table = Table(title=report["corpus"], show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, told in _lines(report):
        table.add_row(name, told)
    return table


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    pairs, expected = report["pairs"], report["expected_pairs"]
    lines = [("pairs", f"{pairs:,}" + (f" of {expected:,} expected ({pairs / expected:.1%})" if expected else ""))]
    lines += [(f"left out: {kind}", f"{count:,}") for kind, count in report["left_out"].items()]
    lines += [
        ("read", f"{report['read']:,}"),
        ("readable", f"{report['readable']:,} ({report['captions']:,} captions)"),
    ]
    for kind, fault in report["unreadable"].items():
        lines.append((f"unreadable: {kind}", f"{fault['pairs']:,}, such as {fault['example']}"))
    if not report["readable"]:
        return lines
    length, english = report["words_per_caption"], report["english_words"]
    return [
        *lines,
        ("words per caption", f"{length['mean']:.1f} ± {length['std']:.1f}"),
        ("English words", NO_LIST if english is None else f"{english:.1%}"),
        ("unique words", f"{report['unique_words']:,}"),
        ("captions like an earlier one", f"{report['equal_captions']:,}"),
        ("pictures like an earlier one", f"{report['equal_pictures']:,}"),
        ("width", _quartiles(report["widths"])),
        ("height", _quartiles(report["heights"])),
        ("smallest picture", "{} x {}".format(*report["smallest_picture"])),
    ]


def _quartiles(values: Sequence[int]) -> str:
    least, lower, median, upper, most = values
    return f"median {median:,}, quartiles {lower:,} and {upper:,}, {least:,} to {most:,}"
