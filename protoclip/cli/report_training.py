"""The sections of a report that tell of training: curves over the episodes, and what they cost."""

from collections.abc import Sequence
from statistics import fmean

from callbacks.metrics_csv import MetricsCSV
from protoclip.cli.arms import Arm, lacking
from protoclip.reports.charts import colours_of, cost_chart, curve_chart
from protoclip.reports.curves import METRICS, Curve, read_curves
from protoclip.reports.main_metrics import MAIN_METRICS, split_task
from protoclip.reports.page import Group, Section, chart
from protoclip.runs import SETTINGS, Run

PHASE = "seconds_"


def curve_section(arms: Sequence[Arm]) -> Section:
    """Losses and main validation metrics over the episodes."""
    colours = colours_of(arm.title for arm in arms)
    shown = {arm.title: [_shown_curves(run) for run in arm.runs] for arm in arms}
    curves = {title: found for title, found in shown.items() if any(found)}
    names = dict.fromkeys(name for found in curves.values() for run in found for name in run)
    figures = []
    for name in sorted(names, key=_place):
        of_name: dict[str, list[Curve]] = {
            title: [run[name] for run in found if name in run] for title, found in curves.items()
        }
        drawn = curve_chart(name, {title: found for title, found in of_name.items() if found}, colours)
        figures.append(chart(drawn, f"{name} over episodes"))
    return Section(
        "curves",
        "Training",
        "Means over what was logged in each episode; several seeds faintly, and their mean.",
        [Group("", figures)] if figures else (),
        [(title, colours[title]) for title in curves] if figures else (),
        [f"Left out: {arm.title}: {_without_curves(arm.first)}." for arm in arms if arm.title not in curves],
    )


def cost_section(arms: Sequence[Arm]) -> Section:
    """Seconds of each phase of the training."""
    costs = {arm.title: [run.cost for run in arm.runs if run.cost] for arm in arms}
    costs = {title: found for title, found in costs.items() if found}
    groups = []
    if costs:
        means = {title: {key: fmean(cost[key] for cost in found) for key in found[0]} for title, found in costs.items()}
        phases = {
            title: {key.removeprefix(PHASE): each for key, each in mean.items() if _is_phase(key)}
            for title, mean in means.items()
        }
        notes = {title: f"{mean['seconds']:,.0f} s (x {mean['relative_epoch']:.2f})" for title, mean in means.items()}
        groups = [Group("", [chart(cost_chart(phases, notes), "seconds of training by phase")])]
    return Section(
        "cost",
        "Cost",
        "Seconds of training by phase, validation left out; behind each bar their sum, and the relative epoch: "
        "all phases over training alone.",
        groups,
        left_out=lacking(arms, costs, "cost: it was not trained here"),
    )


def _shown_curves(run: Run) -> dict[str, Curve]:
    file = run.path / METRICS
    curves = read_curves(file) if file.is_file() else {}
    return {name: curve for name, curve in curves.items() if _is_shown(name)}


def _without_curves(run: Run) -> str:
    """Why a run has no curves."""
    if not (run.path / SETTINGS).is_file():
        return "it was not trained here"
    trainer = run.settings["trainer"]
    if MetricsCSV.__name__ not in str(trainer.get("logger")):
        return f"its loggers write no {METRICS}, as of logger=none"
    steps, every = int(run.cost.get("steps", 0)), trainer.get("log_every_n_steps", 50)  # as Lightning has it
    if steps < every:
        return f"nothing was logged in its {steps} steps (trainer.log_every_n_steps={every})"
    return f"its {METRICS} is gone, or holds no loss and no metric of a validation task"


def _is_shown(name: str) -> bool:
    """Whether a figure of the training is a loss, or a main metric of a validation task."""
    part, _, rest = name.partition("/")
    task, _, metric = rest.rpartition("/")
    if part == "validation" and task:
        return metric in MAIN_METRICS.get(split_task(task)[0], (metric,))
    return part in ("train", "validation") and name.endswith("loss")


def _place(name: str) -> tuple[bool, bool, str]:
    return name.startswith("validation"), not name.endswith("/loss"), name


def _is_phase(key: str) -> bool:
    return key.startswith(PHASE) and key != "seconds_per_episode"
