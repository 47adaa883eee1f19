"""What a manifest costs as it grows: opening it, a worker's memory, and the data side of a refresh.

A table of synthetic rows is written to a temporary folder, which wants 2 GB at ten million rows. Each figure is taken
in a process of its own. A worker is one of a training: it decodes and crops the picture of each pair and tokenises a
caption. Its memory is what it shares with no other process (``Private_Clean`` and ``Private_Dirty``), torch's own
included. Of a refresh only the data side is measured: its m pairs are drawn, and a caption of each is read. The rest of
it, extraction and clustering, knows the m pairs alone, and costs the same whatever corpus they are of. Every table is
in the page cache when the clock starts: what a disk takes to bring back pages that the system gave away is the disk's.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pandas as pd
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from benchmarks.measure import Measured, arguments, isolated, peak_memory_mb, seconds, write
from benchmarks.photos import photo
from benchmarks.runs import TOY, composed
from datamodules.episodes import EpisodePlan
from datamodules.manifests import ManifestPairs
from protoclip.cli.build import build_datamodule

WORDS = ["a", "photo", "of", "the", "small", "red", "dog", "that", "runs", "on", "green", "grass", "by", "houses"]
EPISODES = 3
SMALL = 10_000
"""Pairs of a manifest that costs next to nothing."""
PHOTOS = 16
"""Pictures on the disk."""
Draw = Literal["independent", "partition"]


def lines(rows: int) -> Iterator[str]:
    """A path and a caption of ten words each, always the same."""
    yield "filepath\ttitle\n"
    draws = np.random.default_rng(0)
    for start, stop in pairwise([*range(0, rows, 100_000), rows]):
        words = np.array(WORDS)[draws.integers(len(WORDS), size=(stop - start, 10))].tolist()
        for row, caption in enumerate(words, start=start):
            yield f"images/{row // 10**6:02d}/{row // 10**4 % 100:02d}/{row:09d}.jpg\t{' '.join(caption)}\n"


def written(folder: Path, rows: int) -> Path:
    """A manifest of so many rows."""
    path = folder / f"{rows}.tsv"
    with path.open("w", encoding="ascii") as file:
        file.writelines(lines(rows))
    return path


def bring_back(path: Path) -> None:
    """Have the system hold a file's pages."""
    with path.open("rb") as file:
        while file.read(2**20):
            pass


def opened(path: Path, *, anew: bool) -> tuple[float, float]:
    """Seconds to open a manifest, and the peak memory in MB."""
    cache = path.parent / "cache"
    if anew:
        for file in cache.glob("*"):
            file.unlink()
    return _measured(path, partial(ManifestPairs, path, cache_dir=cache))


def read_by_pandas(path: Path) -> tuple[float, float]:
    """The same of the plainest way to read it."""
    return _measured(path, partial(pd.read_csv, path, sep="\t"))


def _measured(path: Path, work: Callable[[], object]) -> tuple[float, float]:
    taken: list[float] = []
    bring_back(path)
    memory = peak_memory_mb(lambda: taken.append(seconds(work)))
    return taken[0], memory


def measure_openings(path: Path, rows: int, repeats: int, *, quick: bool) -> list[Measured]:
    """The first opening beside pandas in turn, then the second one."""
    first, pandas, second = [], [], []
    for _ in range(repeats):
        pandas.append(isolated(partial(read_by_pandas, path), quick=quick))
        first.append(isolated(partial(opened, path, anew=True), quick=quick))
        second.append(isolated(partial(opened, path, anew=False), quick=quick))
    return [
        Measured(
            name="manifest/first_opening",
            seconds=[one[0] for one in first],
            sizes={"rows": rows, "megabytes": round(path.stat().st_size / 1e6)},
            peer="pandas.read_csv",
            peer_seconds=[one[0] for one in pandas],
            memory_mb=median(one[1] for one in first),
            peer_memory_mb=median(one[1] for one in pandas),
            target=1.0,
        ),
        Measured(
            name="manifest/second_opening",
            seconds=[one[0] for one in second],
            sizes={"rows": rows},
            memory_mb=median(one[1] for one in second),
            details={"aim_seconds": 2.0},
        ),
    ]


class FewPhotos(ManifestPairs):
    """A manifest of any number of pictures, where the disk has a few, each of them for many."""

    def file(self, index: int) -> Path:
        """One of the few."""
        return self._root / f"{index % PHOTOS}.jpg"


def with_memory(samples: list[dict[str, Any]]) -> tuple[dict[str, Tensor], int, float]:
    """The batch that a training gets, this worker, and the memory in MB that is its alone."""
    batch: dict[str, Tensor] = default_collate(samples)
    fields = (line.split() for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines())
    private = sum(int(words[1]) for words in fields if words[0] in {"Private_Clean:", "Private_Dirty:"})
    worker = get_worker_info()
    assert worker is not None
    return batch, worker.id, private / 1024


def worker_memory(path: Path, size: int, *, quick: bool) -> tuple[list[float], list[dict[int, float]]]:
    """Seconds of each episode, and the most that each worker held in it."""
    folder = path.parent
    width, height = (64, 48) if quick else (500, 375)
    for number in range(PHOTOS):
        (folder / f"{number}.jpg").write_bytes(photo(number, width, height))
    words = ["method=clip", "data=manifest", f"data.path={path}", f"+data.train.cache_dir={folder}/cache", "views=crop"]
    words += ["data.train._target_=benchmarks.scale.FewPhotos", f"episode.size={size}", "num_workers=2"]
    words += [*TOY, "batch_size=20"] if quick else ["towers=vit_b_32", "batch_size=100"]
    with patch.dict(os.environ, PROTOCLIP_CACHE=f"{folder}/tokens"):
        datamodule = build_datamodule(composed(*words, runs=str(folder)))
    loader: Any = datamodule.train_dataloader()
    loader.multiprocessing_context = "fork"  # as in training; in a process that was spawned it is not the default
    loader.collate_fn = with_memory
    taken, held = [], []
    for episode in range(EPISODES):
        loader.sampler.set_epoch(episode)
        most: dict[int, float] = {}
        taken.append(seconds(lambda: keep_most(loader, most)))  # noqa: B023 (called at once)
        held.append(most)
    return taken, held


def keep_most(batches: Iterable[tuple[dict[str, Tensor], int, float]], most: dict[int, float]) -> None:
    """Go through an episode, and note the most memory of each worker."""
    for batch, worker, memory in batches:
        assert batch["image"].ndim == 4
        most[worker] = max(memory, most.get(worker, 0.0))


def measure_workers(path: Path, rows: int, size: int, *, quick: bool) -> Measured:
    """Two workers that make the batches of a training."""
    taken, held = isolated(partial(worker_memory, path, size, quick=quick), quick=quick)
    return Measured(
        name="manifest/worker_memory",
        seconds=taken,
        sizes={"rows": rows, "episode_size": size, "workers": 2},
        memory_mb=max(max(workers.values()) for workers in held),
        details={
            "aim_mb": 200.0,
            **{
                f"mb_episode_{episode}_worker_{worker}": memory
                for episode, workers in enumerate(held)
                for worker, memory in sorted(workers.items())
            },
        },
    )


def refreshes(paths: dict[int, Path], size: int, draw: Draw, repeats: int) -> dict[int, list[tuple[float, float]]]:
    """Seconds of drawing m pairs and of reading their captions, the corpora in turn, once uncounted."""
    sources = {rows: ManifestPairs(path, cache_dir=path.parent / "cache") for rows, path in paths.items()}
    plans = {rows: EpisodePlan(rows, size, draw=draw) for rows in paths}
    found: dict[int, list[tuple[float, float]]] = {rows: [] for rows in paths}
    for block in range(repeats + 1):
        for rows, plan in plans.items():
            for file in (paths[rows], *(paths[rows].parent / "cache").glob("*")):
                bring_back(file)
            drawn: list[int] = []
            drawing = seconds(lambda: drawn.extend(plan.indices(block).tolist()))  # noqa: B023 (called at once)
            found[rows].append((drawing, seconds(lambda: [sources[rows].captions(index)[0] for index in drawn])))  # noqa: B023
    return {rows: taken[1:] for rows, taken in found.items()}


def measure_refresh(paths: dict[int, Path], size: int, draw: Draw, repeats: int, *, quick: bool) -> list[Measured]:
    """The data side of a refresh, without extraction and clustering: corpora of growing size beside the smallest."""
    found = isolated(partial(refreshes, paths, size, draw, repeats), quick=quick)
    smallest, *_ = found
    totals = {rows: [sum(parts) for parts in taken] for rows, taken in found.items()}
    return [
        Measured(
            name=f"refresh_data/{draw}",
            seconds=totals[rows],
            sizes={"rows": rows, "episode_size": size},
            peer=f"the same from {smallest:,} rows",
            peer_seconds=totals[smallest],
            details={
                "seconds_draw": median(parts[0] for parts in taken),
                "seconds_captions": median(parts[1] for parts in taken),
            },
        )
        for rows, taken in found.items()
        if rows != smallest
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all of them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rows", type=int, default=10**7)
    scale, others = parser.parse_known_args(argv)
    options = arguments(__doc__, others)
    rows, small, size, repeats = (2000, 200, 200, 1) if options.quick else (scale.rows, SMALL, 10_000, 3)
    with TemporaryDirectory() as folder:
        sizes = {small * 10**power for power in range(4)} | {rows}
        paths = {number: written(Path(folder), number) for number in sorted(sizes) if number <= rows}
        for measured in measure_openings(paths[rows], rows, repeats, quick=options.quick):
            write(measured, options.results)
        for number in (small, rows):
            write(measure_workers(paths[number], number, size, quick=options.quick), options.results)
        for draw in ("independent", "partition"):
            for measured in measure_refresh(paths, size, draw, repeats + 2, quick=options.quick):
                write(measured, options.results)


if __name__ == "__main__":
    main()
