"""Results of one run on the screen."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from protoclip.reports.rows import Row


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Print one line per task, its metrics side by side."""
    table = Table("task", "metrics")
    for row in rows:
        metrics = (f"{name} {'-' if value is None else f'{value:.4g}'}" for name, value in row["metrics"].items())
        table.add_row(row["task"], "  ".join(metrics))
    console.print(table)
