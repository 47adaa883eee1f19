"""The prototype loss, forward and backward, beside a direct transcription of ProtoCLIP's eq. 4 and 5.

The peer is that transcription: the relations of all prototypes, softmax(C C^T / t) [K, K], from which the batch takes
the rows of its labels, or one-hot rows for hard targets; then minus the sum of target times log(softmax(logits)). Ours
makes the rows of the batch alone, and takes indices for hard targets. Both give the same number, which is checked.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Measured, arguments, interleaved, isolated, peak_memory_mb, write
from protoclip.losses import prototype_loss

Loss = Callable[..., Tensor]


def transcription(
    student: Tensor,
    prototypes: Tensor,
    logit_scale: Tensor,
    labels: Tensor,
    *,
    teacher_centroids: Tensor,
    target_temperature: float | None,
) -> Tensor:
    """The loss as its formulas are printed."""
    if target_temperature is None:
        targets = F.one_hot(labels, len(prototypes)).to(student.dtype)
    else:
        targets = (teacher_centroids @ teacher_centroids.T / target_temperature).softmax(dim=1)[labels]
    return -(targets * (logit_scale * student @ prototypes.T).softmax(dim=1).log()).sum(dim=1).mean()


LOSSES: dict[str, Loss] = {"ours": prototype_loss, "peer": transcription}


def step(side: str, batch: int, prototypes: int, dim: int, temperature: float | None) -> Callable[[], Tensor]:
    """A function that computes the loss of one side and its gradients on the same random features."""
    generator = torch.Generator().manual_seed(0)
    student = F.normalize(torch.randn(batch, dim, generator=generator), dim=1).requires_grad_()
    own, teacher = (0.8 * F.normalize(torch.randn(prototypes, dim, generator=generator), dim=1) for _ in range(2))
    labels = torch.randint(prototypes, (batch,), generator=generator)
    scale = torch.tensor(14.0, requires_grad=True)

    def work() -> Tensor:
        student.grad = scale.grad = None
        loss = LOSSES[side](student, own, scale, labels, teacher_centroids=teacher, target_temperature=temperature)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return work


def memory(side: str, batch: int, prototypes: int, dim: int, temperature: float | None) -> float:
    """Peak memory of one step in MB."""
    return peak_memory_mb(step(side, batch, prototypes, dim, temperature))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure soft and hard targets."""
    options = arguments(__doc__, argv)
    batch, prototypes, dim, repeats = (16, 50, 8, 2) if options.quick else (512, 20_000, 128, 9)
    for kind, temperature in {"soft": 0.01, "hard": None}.items():
        sizes = (batch, prototypes, dim, temperature)
        works = [step(side, *sizes) for side in LOSSES]
        torch.testing.assert_close(works[0](), works[1](), rtol=1e-4, atol=1e-4)
        ours, peer = interleaved(works[0], works[1], repeats=repeats)
        used = [isolated(partial(memory, side, *sizes), quick=options.quick) for side in LOSSES]
        write(
            Measured(
                name=f"prototype_loss/{kind}",
                seconds=ours,
                peer="transcription of eq. 4 and 5",
                peer_seconds=peer,
                memory_mb=used[0],
                peer_memory_mb=used[1],
                sizes={"batch": batch, "num_prototypes": prototypes, "dim": dim, "target_temperature": temperature},
            ),
            options.results,
        )


if __name__ == "__main__":
    main()
