"""``protoclip compare``: the arms of a comparison on one stream of pairs, one table, claims judged, and figures.

An arm may be given another arm's measured cost instead of its own length: ``cost_of: protoclip`` makes its seconds, at
those of the first arm's episodes, as many as that arm's, rounded to whole episodes. An arm's seconds are those of its
median episode times its episodes, because the first run of a process also pays for what the others find in memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from filelock import FileLock
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from datamodules.sources import PairStream
from protoclip.cli.build import build_datamodule, check_settings
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import training_corpus
from protoclip.cli.experiment import run_experiment, screen
from protoclip.cli.explain import explain
from protoclip.cli.figures import draw_embeddings, draw_prototypes
from protoclip.cli.sweep import Job, sweep
from protoclip.comparison import Comparison
from protoclip.files import replacing
from protoclip.instantiate import SettingsError, instantiate
from protoclip.reports.claims import claims_markdown, judge, print_claims
from protoclip.reports.rows import Row, append_rows
from protoclip.reports.tables import comparison_table, print_table, to_csv, to_markdown
from protoclip.runs import Run, RunLockedError


def compare(words: Sequence[str], *, console: Console | None = None) -> Path:
    """Run every arm with every seed, then write rows, tables, verdicts and figures.

    Processes that are started with the same words divide the runs, and those that see the last one done report.

    Args:
        words: Hydra overrides; ``compare`` says what is compared (see ``Comparison``).
        console: where to print.

    Returns:
        The folder of ``rows.jsonl``, ``table.md``, ``table.csv``, ``claims.md``, ``tsne.png`` and ``prototypes.png``.

    Raises:
        ValueError: there is nothing to compare, an arm takes the cost of an arm that does not come before it, or an
            arm's teacher has no cache; or the gallery is of a stream.
    """
    console = console or screen()
    base = compose_config(words)
    comparison = _read(base)
    _check_teachers(words, comparison)
    _check_gallery(words, comparison)
    if len(comparison.judged) < len(comparison.claims):
        console.print("claims about arms that are not in compare.arms are left out")

    def perform(job: Job, finished: Mapping[Job, Run]) -> Run:
        key, seed = job
        length = _length_words(key, comparison, finished)
        config = compose_config([*words, *comparison.arms[key].overrides, *length, f"seed={seed}"])
        console.rule(f"{comparison.titles[key]}, seed {seed}")
        try:
            return run_experiment(config, console=console)
        except RunLockedError as error:
            alone = config.trainer.get("devices") == 1 and config.trainer.get("num_nodes", 1) == 1
            if not alone:  # the others of several processes would not put back the same run
                raise ValueError(f"{error}; runs of one process, by trainer.devices=1, can be shared out") from error
            console.print(f"{error.run.path} is being written by another process: put back")
            raise

    finished = sweep(comparison, perform, console)
    folder = Path(base.runs) / "compare" / comparison.name
    _report(folder, comparison, finished, console)
    return folder


def _read(base: DictConfig) -> Comparison:
    if base.get("compare") is None:
        raise ValueError("protoclip compare needs arms: give experiment=demo, or compare=scenes")
    settings = OmegaConf.to_container(base.compare, resolve=True)
    assert isinstance(settings, dict)
    try:
        return instantiate(Comparison, {str(key): value for key, value in settings.items()}, "compare")
    except SettingsError as error:
        raise ValueError(explain(str(error), base)) from error


def _check_teachers(words: Sequence[str], comparison: Comparison) -> None:
    """Refuse an arm whose teacher has no cache, before the other arms are trained."""
    for arm in comparison.arms.values():
        config = compose_config([*words, *arm.overrides])
        if config.teachers:
            check_settings(config)
            build_datamodule(config)


def _check_gallery(words: Sequence[str], comparison: Comparison) -> None:
    """Refuse a gallery of prototypes that cannot be drawn, before the arms are trained."""
    arm = comparison.arms.get(comparison.prototypes_of or "")
    if arm and isinstance(training_corpus(compose_config([*words, *arm.overrides])), PairStream):
        raise ValueError("a stream's pairs cannot be looked up for a gallery: set compare.prototypes_of=null")


def _length_words(key: str, comparison: Comparison, finished: Mapping[Job, Run]) -> list[str]:
    costly = comparison.arms[key].cost_of
    if costly is None:
        return []
    first = next(iter(comparison.arms))
    episode = fmean(run.cost["seconds_per_episode"] for (arm, _), run in finished.items() if arm == first)
    seconds = fmean(
        run.cost["seconds_per_episode"] * run.cost["episodes"] for (arm, _), run in finished.items() if arm == costly
    )
    return [f"run.episodes={max(1, round(seconds / episode))}", "run.epochs=null"]


@rank_zero_only
def _report(folder: Path, comparison: Comparison, finished: Mapping[Job, Run], console: Console) -> None:
    titles = comparison.titles
    rows: list[Row] = [{**row, "arm": titles[key]} for (key, _), run in finished.items() for row in run.rows]
    table = comparison_table(rows, comparison.columns)
    judgements = judge(comparison.judged, rows, titles)
    console.rule(comparison.name)
    print_table(table, console)
    texts = {"table.md": to_markdown(table), "table.csv": to_csv(table)}
    if judgements:
        print_claims(judgements, console)
        texts["claims.md"] = claims_markdown(judgements)
    first = {key: finished[key, comparison.seeds_of(key)[0]] for key in comparison.arms}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another process may see the last run done at the same time
        with replacing(folder / "rows.jsonl") as file:
            append_rows(file.name, rows)
        for name, text in texts.items():
            with replacing(folder / name) as file:
                file.write(text.encode())
        panels = {titles[key]: first[key] for key in comparison.arms}
        figures = [draw_embeddings(panels, comparison.pictures, folder / "tsne.png")]
        if run := first.get(comparison.prototypes_of or ""):
            figures.append(draw_prototypes(run, folder / "prototypes.png"))
    written = [folder / "rows.jsonl", *(folder / name for name in texts), *figures]
    console.print(*(f"wrote {path}" for path in written), sep="\n", soft_wrap=True)
