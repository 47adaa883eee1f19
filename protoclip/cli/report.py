"""``protoclip report``: finished runs on one page, and their table as Markdown and CSV beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from protoclip.cli.arms import Arm, differences, find_arms, unlike, with_settings
from protoclip.cli.report_features import FeatureSections
from protoclip.cli.report_training import cost_section, curve_section
from protoclip.files import make_folder, replacing
from protoclip.reports.main_metrics import main_columns, with_averages
from protoclip.reports.page import Facts, Page, render
from protoclip.reports.tables import comparison_table, to_csv, to_markdown_by_metric
from protoclip.runs import now

FACTS = ("arm", "runs", "seeds", "method", "model", "data", "revision", "evaluated")


def report(
    paths: Sequence[Path],
    out: Path,
    *,
    pictures: str | None = None,
    projector: bool = False,
    console: Console | None = None,
) -> Path:
    """Write the report of runs.

    Args:
        paths: run directories, or folders of ``protoclip compare``; the others are compared with the first.
        out: the page; the tables lie beside it, ``.md`` and ``.csv``.
        pictures: labelled set of t-SNE and confusion matrices; None for the first that there is.
        projector: whether the embeddings go to the TensorBoard folder of each arm's first run too.
        console: where to print.

    Returns:
        The page.

    Raises:
        ValueError: see ``find_arms``; or there are no features of ``pictures``, or no folder can be made for the page.
    """
    if out.suffix not in (".html", ".htm"):
        raise ValueError(f"{out} is no page: let --out end in .html")
    arms = find_arms(paths)
    make_folder(out.parent)
    rows = with_averages([row for arm in arms for row in arm.rows])
    columns = main_columns(rows)
    table = comparison_table(rows, [column.name for column in columns])
    titles = [arm.title for arm in arms]
    features = FeatureSections(arms, pictures)
    of_features = features.sections()
    page = Page(
        title=" and ".join(titles) if len(titles) < 3 else f"{titles[0]} and {len(titles) - 1} others",
        subtitle=_subtitle(arms),
        facts=Facts(FACTS, [_facts(arm) for arm in arms]),
        settings=_settings(with_settings(arms)),
        table=table,
        columns=columns,
        warnings=_warnings(arms),
        sections=[curve_section(arms), *of_features, cost_section(arms)],
    )
    labels = {column.name: f"{column.kind}: {column.label}" for column in columns}
    texts = {
        out: render(page),
        out.with_suffix(".md"): f"# {page.title}\n\n{to_markdown_by_metric(table, labels)}"
        + "".join(f"\n{line}\n" for line in page.warnings),
        out.with_suffix(".csv"): to_csv(table),
    }
    for path, text in texts.items():
        with replacing(path) as file:
            file.write(text.encode())
    written = [*texts, *(features.project() if projector else ())]
    (console or Console()).print(*(f"wrote {path}" for path in written), sep="\n", soft_wrap=True)
    return out


def _subtitle(arms: Sequence[Arm]) -> str:
    runs = sum(len(arm.runs) for arm in arms)
    several = "; features and prototypes are those of each arm's first seed" if runs > len(arms) else ""
    return f"{runs} run{'s' if runs > 1 else ''}, report of {now().replace('T', ' ')[:16]} UTC{several}"


def _settings(arms: Sequence[Arm]) -> Facts:
    """The settings in which arms differ, a line each."""
    return Facts(
        ("setting", *(arm.title for arm in arms)), [(key, *values) for key, values in differences(arms).items()]
    )


def _warnings(arms: Sequence[Arm]) -> list[str]:
    """A line of the tasks whose figures do not compare like with like; none if all do."""
    found = unlike(arms)
    return [f"Not measured on the same for all: {', '.join(found)}."] if found else []


def _facts(arm: Arm) -> tuple[str, ...]:
    """What tells where an arm's results come from, in the order of ``FACTS``."""
    rows = [run.rows[0] for run in arm.runs]
    return (
        arm.title,
        ", ".join(row["run"] for row in rows),
        ", ".join(str(row["seed"]) for row in rows),
        _once(row["method"] for row in rows),
        _once(row["model"] for row in rows),
        _once(f"{row['data']['name']} {row['data']['fingerprint'][:8]}" for row in rows),
        _once(row["git"] for row in rows),
        max(row["time"] for row in rows).replace("T", " ")[:16],
    )


def _once(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
