"""The runs of a comparison, divided among the processes that are started on it.

They agree by nothing but the runs' locks: what another process is writing is put back, and looked at again when nothing
else is left. A process that dies leaves its run to the others, who resume it.
"""

import time
from collections.abc import Callable, Mapping

from rich.console import Console

from protoclip.comparison import Comparison
from protoclip.runs import Run, RunLockedError

Job = tuple[str, int]
"""Arm and seed."""
PAUSE = 5.0
"""Seconds between two looks at what others are writing."""


def pause() -> None:
    """Give the other processes time."""
    time.sleep(PAUSE)


def sweep(
    comparison: Comparison,
    perform: Callable[[Job, Mapping[Job, Run]], Run],
    console: Console,
) -> dict[Job, Run]:
    """Do every run of a comparison, or see it done.

    Args:
        comparison: says which, and which wait for others.
        perform: finishes a run, given those that are finished; raises ``RunLockedError`` where another one writes it.
        console: where to print.

    Returns:
        Finished runs, by arms and then seeds in the order of the comparison.
    """
    pending, finished = list(comparison.jobs), dict[Job, Run]()
    held: dict[Job, Run] = {}
    told = False
    while pending:
        for job in [job for job in pending if not _waits(job, pending, comparison)]:
            pending.remove(job)
            try:
                if job in held and held[job].locked:
                    raise RunLockedError(held[job])
                finished[job] = perform(job, finished)
                break
            except RunLockedError as error:
                held[job] = error.run
                pending.append(job)
        else:
            if not told:
                console.print("waiting for the runs of other processes")
                told = True
            pause()
    return {(key, seed): finished[key, seed] for key in comparison.arms for seed in comparison.seeds_of(key)}


def _waits(job: Job, pending: list[Job], comparison: Comparison) -> bool:
    """Whether runs are missing that decide how long this one is."""
    return any(key in comparison.measured_by(job[0]) for key, _ in pending)
