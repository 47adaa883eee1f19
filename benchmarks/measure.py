"""What the benchmarks share: interleaved medians, peak memory of a process of its own, and rows of results."""

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch

from protoclip.runs import git_revision, now

RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """One measured thing.

    Attributes:
        name: of the thing.
        seconds: of ours, one a repeat; the row holds their median.
        sizes: what it was measured at.
        peer: what stands beside it.
        peer_seconds: of the peer, in the same run.
        memory_mb: peak above what the process held before.
        peer_memory_mb: likewise.
        target: the ratio ours / peer that is aimed at, at most.
        details: further figures.
    """

    name: str
    seconds: Sequence[float]
    sizes: Mapping[str, object]
    peer: str | None = None
    peer_seconds: Sequence[float] = ()
    memory_mb: float | None = None
    peer_memory_mb: float | None = None
    target: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)


def arguments(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of every benchmark: ``--quick``, ``--results`` and ``--threads``, which is set at once."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that it runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON Lines file that rows are appended to")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of ours and of the peer")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    return options


def seconds(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = perf_counter()
    work()
    return perf_counter() - started


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object], *, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, in turn, after one call of each that is not counted."""
    ours()
    peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def isolated(work: Callable[[], T], *, quick: bool) -> T:
    """The result of a call in a fresh process with as many threads; with ``quick`` in this one.

    Args:
        work: a function of a module, its arguments bound by ``functools.partial``.
        quick: save the seconds that a process takes to start.
    """
    if quick:
        return work()
    spawn = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,)) as process:
        return process.submit(work).result()


def peak_memory_mb(work: Callable[[], object]) -> float:
    """Peak memory of a call in MB above what the process held before; for :func:`isolated`, on Linux.

    ``VmHWM``, not ``getrusage``: a started process inherits the latter's peak from its parent.
    """
    before = _status_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
    work()
    return (_status_kb("VmHWM") - before) / 1024


def _status_kb(field_name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field_name + ":"))


def write(measured: Measured, path: Path) -> dict[str, Any]:
    """Append a thing's row to a file and print it in one line."""
    facts = asdict(measured)
    ours, peers = facts.pop("seconds"), facts.pop("peer_seconds")
    row = {
        **facts,
        "seconds": median(ours),
        "peer_seconds": median(peers) if peers else None,
        "ratio": median(ours) / median(peers) if peers else None,
        "repeats": len(ours),
        "date": now(),
        "machine": f"{_cpu()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "git": git_revision(),
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    peer = f", {measured.peer} {row['peer_seconds']:.4g} s, ratio {row['ratio']:.3g}" if peers else ""
    print(f"{measured.name}: {row['seconds']:.4g} s{peer}")  # noqa: T201
    return row


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
