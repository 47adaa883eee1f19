"""Result rows (one JSON line per evaluated task), comparison tables and figures."""

from protoclip.reports.figures import prototype_gallery, prototype_neighbours, tsne_figure
from protoclip.reports.rows import Row, append_rows, read_rows
from protoclip.reports.tables import Table, comparison_table, print_table, to_csv, to_markdown

__all__ = [
    "Row",
    "Table",
    "append_rows",
    "comparison_table",
    "print_table",
    "prototype_gallery",
    "prototype_neighbours",
    "read_rows",
    "to_csv",
    "to_markdown",
    "tsne_figure",
]
