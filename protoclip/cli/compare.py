"""``protoclip compare``: the arms of a comparison on one stream of pairs, one table, and figures.

An arm may be given another arm's measured cost instead of its own length: ``cost_of: ProtoCLIP`` multiplies the
episodes by (seconds of ProtoCLIP's median episode) / (seconds of the first arm's), rounded to whole episodes; medians,
because the first run of a process also pays for what the others find in memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console

from protoclip.cli.compose import compose_config
from protoclip.cli.experiment import run_experiment, screen
from protoclip.cli.figures import draw_embeddings, draw_prototypes
from protoclip.reports.rows import Row, append_rows
from protoclip.reports.tables import comparison_table, print_table, to_csv, to_markdown
from protoclip.runs import Run


def compare(words: Sequence[str], *, console: Console | None = None) -> Path:
    """Run every arm with every seed, then write rows, tables and figures.

    Args:
        words: Hydra overrides; ``compare.arms``, ``compare.seeds`` and ``compare.columns`` say what is compared.
        console: where to print.

    Returns:
        The folder of ``rows.jsonl``, ``table.md``, ``table.csv``, ``tsne.png`` and ``prototypes.png``.

    Raises:
        ValueError: an arm takes the cost of an arm that does not come before it.
    """
    console = console or screen()
    base = compose_config(words)
    if base.get("compare") is None:
        raise ValueError("protoclip compare needs arms: give experiment=demo, or compare=scenes")
    runs: dict[str, list[Run]] = {}
    for name, arm in base.compare.arms.items():
        length = _length_words(str(name), arm, base, runs)
        overrides = [*words, *arm.overrides, *length]
        configs = [compose_config([*overrides, f"seed={seed}"]) for seed in base.compare.seeds]
        for config in configs:
            console.rule(f"{name}, seed {config.seed}")
            runs.setdefault(str(name), []).append(run_experiment(config, console=console))
    folder = Path(base.runs) / "compare" / str(base.compare.name)
    _report(folder, runs, base, console)
    return folder


def _length_words(name: str, arm: DictConfig, base: DictConfig, runs: Mapping[str, Sequence[Run]]) -> list[str]:
    costly = arm.get("cost_of")
    if costly is None:
        return []
    if costly not in runs:
        raise ValueError(f"compare.arms.{name}.cost_of names {costly!r}: list that arm before this one")
    first = next(iter(runs.values()))
    ratio = _seconds(runs[costly]) / _seconds(first)
    episodes = max(1, round(first[0].cost["episodes"] * ratio))
    return [f"run.episodes={episodes}", "run.epochs=null"]


def _seconds(runs: Sequence[Run]) -> float:
    return sum(run.cost["seconds_per_episode"] for run in runs)


@rank_zero_only
def _report(folder: Path, runs: Mapping[str, Sequence[Run]], base: DictConfig, console: Console) -> None:
    rows: list[Row] = [{**row, "arm": name} for name, members in runs.items() for run in members for row in run.rows]
    table = comparison_table(rows, list(base.compare.columns))
    console.rule(str(base.compare.name))
    print_table(table, console)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").unlink(missing_ok=True)
    append_rows(folder / "rows.jsonl", rows)
    (folder / "table.md").write_text(to_markdown(table), encoding="utf-8")
    (folder / "table.csv").write_text(to_csv(table), encoding="utf-8")
    first = {name: members[0] for name, members in runs.items()}
    figures = [draw_embeddings(first, base.compare.pictures, folder / "tsne.png")]
    figures += [
        draw_prototypes(run, folder / "prototypes.png")
        for name, run in first.items()
        if name == base.compare.prototypes_of
    ]
    console.print(*(f"wrote {path}" for path in [folder / "rows.jsonl", folder / "table.md", *figures]), sep="\n")
