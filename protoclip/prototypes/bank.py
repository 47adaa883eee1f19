"""What an episode's refresh leaves behind for its training steps: labels, prototypes, teacher centroids."""

from typing import Literal

import torch
from torch import Tensor, nn

from protoclip.prototypes.assignment import Assignment
from protoclip.ranges import PositiveFloat, PositiveInt

UNLABELLED = -1
LEFT_OUT = -2
"""Label of a position that takes no part, such as a pair without a recorded feature."""


ABSENT = -1
"""Count of a prototype that there is not, because the labelled samples are too few for K."""


class PrototypeSide(nn.Module):
    """The prototypes that supervise one modality's features. All state is in persistent buffers of final shape."""

    labels: Tensor
    prototypes: Tensor
    centroids: Tensor
    counts: Tensor

    def __init__(self, episode_size: int, num_prototypes: int, dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.full((episode_size,), UNLABELLED))
        self.register_buffer("prototypes", torch.zeros(num_prototypes, dim))
        self.register_buffer("centroids", torch.zeros(num_prototypes, teacher_dim))
        self.register_buffer("counts", torch.zeros(num_prototypes, dtype=torch.int64))

    def write(self, assignment: Assignment, positions: Tensor | None = None) -> None:
        """Replace everything by a new episode's assignment, of these positions only or of all."""
        self.labels.fill_(LEFT_OUT)
        self.labels[slice(None) if positions is None else positions] = assignment.labels.to(self.labels.device)
        for name in ("prototypes", "centroids", "counts"):
            found = getattr(assignment, name)
            buffer: Tensor = getattr(self, name).fill_(ABSENT if name == "counts" else 0)
            buffer[: len(found)].copy_(found)


class PrototypeBank(nn.Module):
    """Prototypes of the current block of episodes, for images and for texts, looked up by episode position.

    Args:
        episode_size: pairs m of an episode.
        dim: width of the projected features.
        num_prototypes: K; or
        images_per_prototype: K as m / this number (10 in the paper).
        source: whose clusters they are (see ``assign_prototypes``); joint ones are twice as wide.
        teacher_dim: width of the clustered features, where they are not the student's.

    Raises:
        ValueError: neither or both of the two ways to give K, or a K that is not in [1, m].
    """

    block: Tensor
    partial: Tensor

    def __init__(
        self,
        episode_size: PositiveInt,
        dim: PositiveInt,
        *,
        num_prototypes: PositiveInt | None = None,
        images_per_prototype: PositiveFloat | None = None,
        source: Literal["cross", "same", "joint"] = "cross",
        teacher_dim: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.episode_size = episode_size
        self.source = source
        self.num_prototypes = prototype_count(episode_size, num_prototypes, images_per_prototype)
        teacher_dim = teacher_dim or (2 * dim if source == "joint" else dim)
        self.image = PrototypeSide(episode_size, self.num_prototypes, dim, teacher_dim)
        self.text = PrototypeSide(episode_size, self.num_prototypes, dim, teacher_dim)
        self.register_buffer("block", torch.tensor(UNLABELLED))
        self.register_buffer("partial", torch.tensor(False))

    def write(self, block: int, image: Assignment, text: Assignment, positions: Tensor | None = None) -> None:
        """Take over the prototypes of a block of episodes; there may be fewer than K, the others are then empty.

        Args:
            block: number of the block.
            image: supervision of the image features.
            text: supervision of the text features.
            positions: places in the episode of the labelled samples [samples], where they are not all; the others take
                no part in the term.
        """
        self.image.write(image, positions)
        self.text.write(text, positions)
        self.block.fill_(block)
        self.partial.fill_(positions is not None and len(positions) < self.episode_size)

    def leave_out(self, block: int) -> None:
        """A block of episodes none of whose pairs takes part."""
        for side in (self.image, self.text):
            side.labels.fill_(LEFT_OUT)
        self.block.fill_(block)
        self.partial.fill_(True)

    def labels(self, modality: str, positions: Tensor, block: int) -> Tensor:
        """Prototype labels of episode positions [batch]; ``LEFT_OUT`` is possible where the bank is ``partial``.

        Raises:
            RuntimeError: the bank holds another block's prototypes or no label for a position, so that training would
                go on with labels that belong to other pairs.
        """
        if int(self.block) != block:
            raise RuntimeError(f"the prototypes are of block {int(self.block)}, the batch is of block {block}")
        labels = self.side(modality).labels[positions]
        if bool((labels == UNLABELLED).any()):
            raise RuntimeError(f"positions without a {modality} label in block {block}")
        return labels

    def side(self, modality: str) -> PrototypeSide:
        """The prototypes that supervise ``image`` or ``text`` features."""
        side = self.get_submodule(modality)
        assert isinstance(side, PrototypeSide)
        return side

    @property
    def clusterings(self) -> dict[str, PrototypeSide]:
        """The side that holds the clusters of ``image`` and of ``text`` features, or of the ``joint`` ones."""
        sides = {
            "cross": {"image": self.text, "text": self.image},
            "same": {"image": self.image, "text": self.text},
            "joint": {"joint": self.image},
        }
        return sides[self.source]


def prototype_count(episode_size: int, num_prototypes: int | None, images_per_prototype: float | None) -> int:
    """K, given either as a number or as images per prototype."""
    if (num_prototypes is None) == (images_per_prototype is None):
        raise ValueError("give either prototype.num_prototypes or prototype.images_per_prototype")
    if num_prototypes is None:
        assert images_per_prototype is not None
        num_prototypes = round(episode_size / images_per_prototype)
    if not 1 <= num_prototypes <= episode_size:
        raise ValueError(
            f"{num_prototypes} prototypes for an episode of {episode_size} pairs: set prototype.num_prototypes "
            f"between 1 and {episode_size}, or raise episode.size"
        )
    return num_prototypes
