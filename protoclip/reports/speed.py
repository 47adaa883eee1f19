"""Tables of benchmark rows: ours beside the peer of the same run."""

import json
from pathlib import Path
from typing import Any

COLUMNS = ("what", "sizes", "ours", "peer", "peer's", "ours / peer", "peak memory", "of which")


def read_speed(path: Path) -> list[dict[str, Any]]:
    """The last row of each measured thing, in the order of the file.

    Raises:
        ValueError: a line that is no JSON object.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is no row: run the benchmark again") from error
        rows.pop(row["name"], None)
        rows[row["name"]] = row
    return list(rows.values())


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one line a measured thing, and the machines below."""
    lines = [COLUMNS, ("---", "---", "---:", "---", "---:", "---:", "---:", "---"), *map(_cells, rows)]
    origins = sorted(
        {f"{row['machine']}, torch {row['torch']}, {row['date'][:10]}, revision {row['git']}" for row in rows}
    )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + f"\n{'; '.join(origins)}. Medians.\n"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
    aim = f" (aim {row['target']:g})" if row["target"] else ""
    memory = "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f} MB"
    if row["peer_memory_mb"] is not None:
        memory += f" / {row['peer_memory_mb']:.0f} MB"
    sizes = ", ".join(f"{name} {value}" for name, value in row["sizes"].items())
    return (
        row["name"],
        sizes,
        _seconds(row["seconds"]),
        row["peer"] or "",
        _seconds(row["peer_seconds"]),
        ratio + aim if ratio else "",
        memory,
        ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row["details"].items()),
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s"
