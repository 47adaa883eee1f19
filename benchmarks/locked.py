"""A training step while the image tower is locked, beside one before, in the same runs.

Each run is locked after half of its episodes; the first episode, which renders pictures, and that of the lock are not
counted.
"""

from collections.abc import Sequence
from tempfile import TemporaryDirectory

from benchmarks.measure import Measured, arguments, write
from benchmarks.runs import TOY, episodes

LOCK = "+callbacks.locked_image_tuning={_target_:callbacks.locked_image_tuning.LockedImageTuning,start:0.5}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure CLIP and ProtoCLIP."""
    options = arguments(__doc__, argv)
    size, batch, half = (32, 8, 3) if options.quick else (2048, 128, 5)
    words = (*(TOY if options.quick else ()), LOCK, f"episode.size={size}", f"batch_size={batch}")
    words += (f"run.episodes={2 * half}", f"data.num_pairs={size}")
    for method in ("clip", "protoclip"):
        with TemporaryDirectory() as folder:
            steps = [
                episode["training"] / (size // batch) for episode in episodes(f"method={method}", *words, runs=folder)
            ]
        write(
            Measured(
                name=f"step/locked_image_tuning/{method}",
                seconds=steps[half + 1 :],
                peer="the same run before the lock",
                peer_seconds=steps[1:half],
                sizes={"episode_size": size, "batch_size": batch, "towers": "small_resnet"},
            ),
            options.results,
        )


if __name__ == "__main__":
    main()
