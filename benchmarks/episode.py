"""The phases of ProtoCLIP's episodes on scenes, and the relative epoch against CLIP really run beside it.

Runs of the two methods with the same settings take turns in one process. Beside them stands the paper's relative epoch,
ProtoCLIP's episode in units of CLIP's.
"""

from collections.abc import Sequence
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import Measured, arguments, write
from benchmarks.runs import TOY, episodes
from callbacks.phase_timer import COST_PHASES, relative_epoch

PAPER = 1.35


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both methods."""
    options = arguments(__doc__, argv)
    size, batch, number, repeats = (32, 8, 3, 1) if options.quick else (2048, 128, 4, 3)
    words = (*(TOY if options.quick else ()), f"episode.size={size}", f"batch_size={batch}", f"run.episodes={number}")
    words += (f"data.num_pairs={2 * size}",)
    found: dict[str, list[dict[str, float]]] = {"protoclip": [], "clip": []}
    with TemporaryDirectory() as folder:
        for _ in range(repeats):
            for method, sofar in found.items():
                extra = ("prototype.warmup_episodes=0",) if method == "protoclip" else ()
                sofar.extend(
                    episodes(f"method={method}", *words, *extra, runs=folder)[1:]
                )  # the first renders pictures
    totals = {
        method: [sum(episode.get(phase, 0.0) for phase in COST_PHASES) for episode in measured]
        for method, measured in found.items()
    }
    details = {
        f"seconds_{phase}": median(episode.get(phase, 0.0) for episode in found["protoclip"]) for phase in COST_PHASES
    }
    details |= {"relative_epoch_of_phases": relative_epoch(found["protoclip"]), "paper_relative_epoch": PAPER}
    write(
        Measured(
            name="episode",
            seconds=totals["protoclip"],
            peer="CLIP",
            peer_seconds=totals["clip"],
            target=PAPER,
            sizes={"episode_size": size, "batch_size": batch, "towers": "small_resnet"},
            details=details,
        ),
        options.results,
    )


if __name__ == "__main__":
    main()
