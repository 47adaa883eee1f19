"""Names for the arms of a comparison that nobody has named: runs that differ in their seed alone are of one arm."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PASSED_OVER = frozenset(
    {"seed", "seed_everything", "run", "validation", "test", "teachers", "num_workers", "prefetch", "keep_tokens"}
    | {"max_faults", "accelerator", "devices", "num_nodes", "strategy", "logger", "plugins", "log_every_n_steps"}
    | {"enable_progress_bar", "EpisodeProgress", "Evaluation", "FaultSummary", "Interruption", "Divergence"}
)
"""Parts of a setting's name that say: two runs of one arm may differ in it."""


def arm_titles(methods: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The method of each run, with the settings that tell it from the other runs of its method.

    Args:
        methods: of the runs.
        settings: of the runs (``protoclip.runs.Run.settings``).

    Returns:
        Such as ``clip max_epochs=32``, the same for runs that differ in nothing but their seed, or in what does not
        change a result.
    """
    flat = [dict(_flattened(setting)) for setting in settings]
    titles = []
    for method, own in zip(methods, flat, strict=True):
        alike = [other for name, other in zip(methods, flat, strict=True) if name == method]
        names = sorted({key for other in alike for key in other})
        differing = [key for key in names if any(other.get(key) != alike[0].get(key) for other in alike)]
        titles.append(" ".join([method, *(f"{_short(key, names)}={own.get(key)}" for key in differing)]))
    return titles


def _flattened(value: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; a class is the value of the setting that it fills, and names itself in a list."""
    if not PASSED_OVER.isdisjoint(parts):
        return
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield ".".join(parts), value["class_path"].rpartition(".")[2]
        for key, inner in value.items():
            if key != "class_path":
                yield from _flattened(inner, parts if key == "init_args" else (*parts, str(key)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            name = (
                inner["class_path"].rpartition(".")[2]
                if isinstance(inner, Mapping) and "class_path" in inner
                else place
            )
            yield from _flattened(inner, (*parts, str(name)))
    else:
        yield ".".join(parts), value


def _short(name: str, names: Sequence[str]) -> str:
    """The shortest end of a dotted name that no other name has."""
    parts = name.split(".")
    ends = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
    return next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in names) == 1)
