"""What a report compares: runs that differ in nothing but their seed are one arm."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from protoclip.cli.listing import state_of
from protoclip.reports.rows import Row, read_rows
from protoclip.runs import ROWS, SETTINGS, Run

SEED = "seed_everything"
DRAWN = ("data.train.", "data.validation.", "data.test.", "trainer.callbacks.Evaluation.")
"""Where a seed draws what is learned or measured: told even if it is the run's, so that other sets are other arms."""
UNCOMPARED = (
    "run.runs",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.logger",
    "data.num_workers",
    "data.prefetch",
)
"""Settings that change no result, beside the run's seed."""
NOT_EVALUATED = frozenset({"cost", "prototypes"})
"""Tasks of a row that training gives."""
FEW = 2
"""Settings in which arms may differ to be called by them."""


@dataclass(frozen=True)
class Arm:
    """Runs that are averaged.

    Attributes:
        title: of its column.
        runs: finished ones, of different seeds.
    """

    title: str
    runs: tuple[Run, ...]

    @property
    def rows(self) -> list[Row]:
        """Of all its runs, as those of a comparison."""
        return [{**row, "arm": self.title} for run in self.runs for row in run.rows]

    @property
    def first(self) -> Run:
        """The run that figures of one run are drawn of."""
        return self.runs[0]


def find_arms(paths: Sequence[Path]) -> list[Arm]:
    """The arms of run directories, or of folders of ``protoclip compare``.

    Raises:
        ValueError: a path that is neither, an unfinished run, or runs that no task has evaluated in common.
    """
    groups: list[tuple[str, dict[str, Any], dict[int, Run]]] = []
    for path in paths:
        for title, runs in _compared(path).items():
            groups.append((title, {}, {run.rows[0]["seed"]: run for run in runs}))
        if not _compared(path):
            _put(groups, _finished(Run(path, path.resolve().name)))
    arms = [Arm(title, tuple(runs[seed] for seed in sorted(runs))) for title, _, runs in groups]
    arms = [replace(arm, title=title) for arm, title in zip(arms, _titles(arms), strict=True)]
    _check_tasks(arms)
    return arms


def lacking(arms: Sequence[Arm], having: Collection[str], what: str) -> list[str]:
    """A line of the arms that a section of a report has nothing of; none if all are among the titles ``having``."""
    names = [arm.title for arm in arms if arm.title not in having]
    return [f"Left out: {', '.join(names)} {'has' if len(names) == 1 else 'have'} no {what}."] if names else []


def settings_of(run: Run) -> dict[str, Any]:
    """What decides a run's result but its seed, flat; nothing of a model that was not trained here."""
    if not (run.path / SETTINGS).exists():
        return {}
    settings = dict(_flat(OmegaConf.to_container(OmegaConf.load(run.path / SETTINGS))))
    return {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in UNCOMPARED)
        and not _is_own_seed(key, value, settings.get(SEED))
    }


def with_settings(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that were trained here."""
    return [arm for arm in arms if settings_of(arm.first)]


def differences(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """The settings in which arms differ, each with its value for every arm; an option that many read is told once."""
    settings = [settings_of(arm.first) for arm in arms]
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for key in dict.fromkeys(key for of_arm in settings for key in of_arm):
        values = tuple(str(of_arm.get(key, "-")) for of_arm in settings)
        if len(set(values)) > 1:
            found.setdefault((key.rpartition(".")[2], values), key)
    return {key: list(values) for (_, values), key in found.items()}


def unlike(arms: Sequence[Arm]) -> list[str]:
    """The tasks whose pictures, classes or prompts are not those of all runs, each with what differs."""
    found: dict[str, list[Row]] = {}
    for run in (run for arm in arms for run in arm.runs):
        for task, row in {row["task"]: row for row in run.rows if row["task"] not in NOT_EVALUATED}.items():
            found.setdefault(task, []).append(row)
    return [f"{task} ({'; '.join(parts)})" for task, rows in found.items() if (parts := _differing(rows))]


def set_fingerprints(run: Run) -> dict[str, str]:
    """Of the picture sets that a run was tested on, by name; those of earlier versions are not known."""
    return {name: fingerprint for row in run.rows for name, fingerprint in row.get("sets", {}).items()}


def _differing(rows: Sequence[Row]) -> list[str]:
    """What the rows of a task were not measured on alike; of sets of unlike size the sizes are enough."""
    counts = _values(row["counts"] for row in rows)
    sets = _values(row.get("sets", {}) for row in rows)
    told = [
        f"{name.replace('_', ' ')} {' and '.join(map(str, each))}" for name, each in counts.items() if len(each) > 1
    ]
    for name, each in sets.items():
        if len(each) > 1 and len(counts[f"{name}_pictures"]) == 1:
            told.append(f"fingerprints of {name} {' and '.join(str(fingerprint)[:8] for fingerprint in each)}")
    return told + (["prompts"] if len({row["prompts"] for row in rows}) > 1 else [])


def _values(found: Iterable[Mapping[str, object]]) -> dict[str, dict[object, None]]:
    """All values of each name, each once and in their order."""
    values: dict[str, dict[object, None]] = {}
    for each in found:
        for name, value in each.items():
            values.setdefault(name, {})[value] = None
    return values


def _is_own_seed(key: str, value: object, seed: object) -> bool:
    return key == SEED or (key.rpartition(".")[2] == "seed" and value == seed and not key.startswith(DRAWN))


def _compared(folder: Path) -> dict[str, list[Run]]:
    """The runs of a folder of ``protoclip compare`` by arm; none of a run."""
    rows = read_rows(folder / ROWS) if (folder / ROWS).is_file() else []
    runs: dict[str, dict[str, Run]] = {}
    for row in rows:
        if "arm" in row:
            place = folder.resolve().parent.parent / row["name"] / row["run"]
            runs.setdefault(row["arm"], {})[row["run"]] = Run(place, row["run"])
    return {arm: list(map(_finished, members.values())) for arm, members in runs.items()}


def _finished(run: Run) -> Run:
    """A run with results.

    Raises:
        ValueError: there is none.
    """
    described = (run.path / "run.json").is_file()
    if described and not run.done:
        state, mend = state_of(run), "give the command that began it again"
        if state == "trained":
            state, mend = "not tested yet", f"protoclip test --config {run.path / SETTINGS} --run_dir {run.path}"
        raise ValueError(f"{run.path} is {state}: {mend}, and report it then")
    if not (run.path / ROWS).is_file() or not run.rows:
        raise ValueError(
            f"{run.path} holds no results: give a run directory runs/NAME/HASH, or a folder of a comparison"
        )
    return run


def _put(groups: list[tuple[str, dict[str, Any], dict[int, Run]]], run: Run) -> None:
    """Add a run to the first group of its settings that lacks its seed, or as a group of its own."""
    settings, seed = settings_of(run), run.rows[0]["seed"]
    for title, known, runs in groups:
        if settings and known == settings and not title:
            if any(run.path.resolve() == other.path.resolve() for other in runs.values()):
                return
            if seed not in runs:
                runs[seed] = run
                return
    groups.append(("", settings, {seed: run}))


def _titles(arms: Sequence[Arm]) -> list[str]:
    """A comparison's own; else the method, with what tells it from the others: settings, if they are few, or hashes."""
    rows: list[Mapping[str, object]] = [arm.first.rows[0] for arm in arms]
    for keys in (("method",), ("model",), ("method", "model"), ("method", "model", "name")):
        titles = [arm.title or " ".join(str(row[key]) for key in keys) for arm, row in zip(arms, rows, strict=True)]
        if _distinct(titles):
            return titles
    titles = [arm.title or str(row["method"]) for arm, row in zip(arms, rows, strict=True)]
    trained = with_settings(arms)
    differing = differences(trained)
    if 0 < len(differing) <= FEW:
        values = {
            arm.first: [f"{key.rpartition('.')[2]}={column[place]}" for key, column in differing.items()]
            for place, arm in enumerate(trained)
        }
        told = [", ".join([title, *values.get(arm.first, ())]) for title, arm in zip(titles, arms, strict=True)]
        if _distinct(told):
            return told
    return [f"{title} {arm.first.hash[:6]}" for title, arm in zip(titles, arms, strict=True)]


def _distinct(titles: Sequence[str]) -> bool:
    return len(set(titles)) == len(titles)


def _check_tasks(arms: Sequence[Arm]) -> None:
    tasks = [{row["task"] for row in arm.rows} - NOT_EVALUATED for arm in arms]
    for arm, found in zip(arms, tasks, strict=True):
        if not found & tasks[0]:
            raise ValueError(
                f"{arms[0].first.path} and {arm.first.path} have no task in common: test them on the same sets"
            )


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of containers by their dotted path; an item that is an object goes by its class."""
    if isinstance(value, list) and not any(isinstance(each, Mapping) for each in value):
        yield prefix[:-1], value
    elif isinstance(value, Mapping | list):
        for key, each in value.items() if isinstance(value, Mapping) else zip(_names(value), value, strict=True):
            yield from _flat(each, f"{prefix}{key}.")
    else:
        yield prefix[:-1], value


def _names(items: Sequence[Any]) -> list[str]:
    """Of a list's items: their class, numbered from its second on, or their place, so that an item more moves none."""
    names: list[str] = []
    for place, each in enumerate(items):
        name = (
            str(each["class_path"]).rpartition(".")[2]
            if isinstance(each, Mapping) and "class_path" in each
            else str(place)
        )
        number = 1 + sum(known.partition(" ")[0] == name for known in names)
        names.append(name if number == 1 else f"{name} {number}")
    return names
