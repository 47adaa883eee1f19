"""``protoclip runs``: every run below a folder, how far it is, and its main figures."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from protoclip.checkpoints import DAMAGE
from protoclip.runs import Run

FIGURES = ("top1", "mean_recall", "ami")
"""Metrics that are shown, the first one of each task that has it."""


def list_runs(folder: Path, console: Console | None = None) -> None:
    """Print one line per run.

    Args:
        folder: holds runs as ``<name>/<hash>``.
        console: where to print.

    Raises:
        ValueError: there is no such folder, or no run in it.
    """
    runs = list(find_runs(folder))
    if not runs:
        raise ValueError(f"no runs in {folder}: give the folder that holds <name>/<hash>, such as runs")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "state", "seed", "started"):
        table.add_column(column, no_wrap=True)
    table.add_column("figures")
    for run in runs:
        facts = run.facts
        table.add_row(
            str(run.path),
            state_of(run),
            str(facts["seed"]),
            str(facts["started"]).replace("T", " ")[:16],
            figures_of(run),
        )
    (console or Console()).print(table)


def find_runs(folder: Path) -> Iterator[Run]:
    """The runs below a folder, by name and start."""
    files = sorted(folder.glob("*/*/run.json"), key=lambda file: (file.parent.parent.name, file.stat().st_mtime))
    for file in files:
        yield Run(file.parent, file.parent.name)


def state_of(run: Run) -> str:
    """``done``, ``running``, ``diverged``, or how many episodes are finished."""
    if run.done:
        return "done"
    if run.locked:
        return "running"
    diagnostic = run.path / "checkpoints" / "diagnostic.ckpt"
    if diagnostic.exists() and not (run.last and run.last.stat().st_mtime > diagnostic.stat().st_mtime):
        return "diverged"
    try:
        episodes, finished = run.facts["episodes"], run.finished_episodes
    except DAMAGE:
        return "damaged"
    return "trained" if finished == episodes else f"stopped at {finished}/{episodes}"


def figures_of(run: Run) -> str:
    """The main metric of each task."""
    parts = []
    for row in run.rows if run.done else ():
        name = next((name for name in FIGURES if name in row["metrics"]), None)
        value = row["metrics"].get(name) if name else None
        if value is not None:
            parts.append(f"{row['task']} {value:.2f}")
    return ", ".join(parts)
