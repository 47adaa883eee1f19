"""What an episode's prototypes cost: back translation, K-means, and the whole refresh as it runs in training.

Peers: back translation stands beside a loop over the clusters, ``features[labels == k].mean(0)``; the FAISS back-end of
K-means beside the torch back-end, each run in a process of its own so that its peak memory is its own. K-means labels
all samples after its last iteration, which is counted as one more.
"""

from collections.abc import Sequence
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Measured, arguments, interleaved, isolated, peak_memory_mb, seconds, write
from benchmarks.runs import TOY, episodes
from protoclip.prototypes import back_translate, kmeans

ITERATIONS = 3


def features(samples: int, dim: int) -> Tensor:
    """Unit vectors around a common direction, as projection heads give them [samples, dim]."""
    noise = torch.randn(samples, dim, generator=torch.Generator().manual_seed(0))
    return F.normalize(noise + 2 * torch.ones(dim) / dim**0.5, dim=1)


def loop(student: Tensor, labels: Tensor, num_prototypes: int) -> Tensor:
    """Back translation cluster by cluster; empty ones are zero rows."""
    rows = (student[labels == number] for number in range(num_prototypes))
    return torch.stack([row.mean(0) if len(row) else row.new_zeros(row.shape[1]) for row in rows])


def measure_back_translation(samples: int, dim: int, prototypes: int, repeats: int) -> Measured:
    """Ours against the loop."""
    student = features(samples, dim)
    labels = torch.randint(prototypes, (samples,), generator=torch.Generator().manual_seed(1))
    work = [partial(function, student, labels, prototypes) for function in (back_translate, loop)]
    torch.testing.assert_close(work[0](), work[1](), rtol=1e-4, atol=1e-5)
    ours, peer = interleaved(work[0], work[1], repeats=repeats)
    return Measured(
        name="back_translate",
        seconds=ours,
        peer="loop over the clusters",
        peer_seconds=peer,
        target=0.1,
        sizes={"samples": samples, "dim": dim, "num_prototypes": prototypes},
    )


def cluster(backend: str, samples: int, dim: int, prototypes: int) -> tuple[float, float]:
    """Seconds of K-means, and its peak memory in MB."""
    points = features(samples, dim)
    kmeans(points[:10], 2, iterations=1, backend=backend)  # what is imported at the first call
    taken: list[float] = []
    work = partial(kmeans, points, prototypes, iterations=ITERATIONS, backend=backend)
    memory = peak_memory_mb(lambda: taken.append(seconds(work)))
    return taken[0], memory


def measure_kmeans(samples: int, dim: int, prototypes: int, repeats: int, *, quick: bool) -> Measured:
    """FAISS beside torch, in turn."""
    sizes = (samples, dim, prototypes)
    rounds = [
        [isolated(partial(cluster, backend, *sizes), quick=quick) for backend in ("faiss", "torch")]
        for _ in range(repeats)
    ]
    ours, peer = ([pair[side][0] for pair in rounds] for side in range(2))
    return Measured(
        name="kmeans/faiss",
        seconds=ours,
        peer="torch back-end",
        peer_seconds=peer,
        memory_mb=median(pair[0][1] for pair in rounds),
        peer_memory_mb=median(pair[1][1] for pair in rounds),
        sizes={"samples": samples, "dim": dim, "num_prototypes": prototypes, "iterations": ITERATIONS},
        details={
            "seconds_per_iteration": median(ours) / (ITERATIONS + 1),
            "peer_seconds_per_iteration": median(peer) / (ITERATIONS + 1),
        },
    )


def measure_refresh(size: int, prototypes: int, repeats: int, toy: Sequence[str]) -> Measured:
    """Extraction, K-means and back translation of episodes that train for one step each."""
    words = (
        *("method=protoclip", "prototype.warmup_episodes=0", "+trainer.limit_train_batches=1"),
        *(f"data.num_pairs={size}", f"episode.size={size}", f"prototype.num_prototypes={prototypes}"),
        "prototype.images_per_prototype=null",
    )
    with TemporaryDirectory() as folder:
        measured = episodes(*words, *toy, f"run.episodes={repeats + 1}", runs=folder)[1:]  # the first renders pictures
    phases = ("extraction", "clustering", "back_translation")
    return Measured(
        name="refresh",
        seconds=[sum(episode[phase] for phase in phases) for episode in measured],
        sizes={"episode_size": size, "num_prototypes": prototypes, "towers": "small_resnet"},
        details={f"seconds_{phase}": median(episode[phase] for episode in measured) for phase in phases},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all three."""
    options = arguments(__doc__, argv)
    samples, dim, prototypes, repeats = (500, 8, 20, 1) if options.quick else (200_000, 128, 20_000, 3)
    write(measure_back_translation(samples, dim, prototypes, repeats), options.results)
    write(measure_kmeans(samples, dim, prototypes, repeats, quick=options.quick), options.results)
    size, number, toy = (32, 4, TOY) if options.quick else (20_000, 2_000, ())
    write(measure_refresh(size, number, repeats, toy), options.results)


if __name__ == "__main__":
    main()
