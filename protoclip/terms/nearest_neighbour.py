"""DeCLIP's nearest-neighbour supervision: an image also matches the text that is nearest to its own."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from protoclip.distributed import all_gather, local_rows
from protoclip.losses import nearest_neighbour_loss
from protoclip.ranges import PositiveInt
from protoclip.terms.base import FeatureKey, StepInputs, Term, present
from protoclip.towers import Towers


class NearestNeighbour(Term):
    """Mean InfoNCE of image views against the nearest neighbours of text views in a queue of past texts.

    The queue is a ring of the last ``size`` texts of all processes, the same in each. A step looks neighbours up among
    those that are filled, before its own texts enter; while there are none the loss is 0.

    Args:
        pairs: names ``[image view, text view]``, at least one pair; each text view enters the queue.
        temperature: name of the shared temperature.
        size: of the queue.
        symmetric: whether neighbours also look for their images.
        weight: factor in the total loss.

    Attributes:
        queue: unit vectors [size, embed_dim].
        seen: number of texts that have entered.

    Raises:
        ValueError: no pairs.
    """

    contrastive: ClassVar[bool] = True
    queue: Tensor
    seen: Tensor

    def __init__(
        self,
        pairs: Sequence[Sequence[str]],
        *,
        temperature: str = "clip",
        size: PositiveInt = 65536,
        symmetric: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if not pairs:
            raise ValueError("a nearest_neighbour term needs pairs, such as [[image, text]]")
        self.pairs = [
            (FeatureKey("image", image, "features"), FeatureKey("text", text, "features")) for image, text in pairs
        ]
        self.texts = tuple(dict.fromkeys(text for _, text in self.pairs))
        self.temperature = temperature
        self.size = size
        self.symmetric = symmetric

    def build(self, towers: Towers) -> None:
        """Make the queue, as wide as the joint space."""
        self.register_buffer("queue", torch.zeros(self.size, towers.text.embed_dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return tuple(key for pair in self.pairs for key in pair)

    @property
    def temperatures(self) -> tuple[str, ...]:  # noqa: D102
        return (self.temperature,)

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        features, rows = dict(inputs.features), None
        scale = inputs.logit_scales[self.temperature]
        filled = self.queue[: int(self.seen)]
        if not len(filled):
            return {"loss": 0.0 * (torch.stack([features[key].sum() for key in self.required]).sum() + scale)}
        neighbours = {text: _nearest(features[text], filled) for text in self.texts}
        if inputs.gathers:
            rows = local_rows(len(inputs.positions))
            features = {key: all_gather(features[key]) for key in dict.fromkeys(self.required)}
            neighbours = {text: all_gather(found) for text, found in neighbours.items()}
        losses = [
            nearest_neighbour_loss(
                features[image],
                neighbours[text],
                scale,
                symmetric=self.symmetric,
                rows=rows,
                valid=present(features[image], features[text]),
            )
            for image, text in self.pairs
        ]
        return {"loss": torch.stack(losses).mean()}

    @torch.no_grad()
    def update(self, inputs: StepInputs) -> None:
        """Let the texts of all processes enter the queue."""
        for text in self.texts:
            rows = inputs.features[text].detach()
            self._enqueue(all_gather(rows) if inputs.gathers else rows)

    def _enqueue(self, rows: Tensor) -> None:
        """Write rows over the oldest, but for those of missing texts."""
        rows = rows[rows.any(dim=1)]
        self.seen += len(rows)
        rows = rows[-self.size :]
        places = torch.arange(-len(rows), 0, device=rows.device) + self.seen
        self.queue[places % self.size] = rows.to(self.queue.dtype)


@torch.no_grad()
def _nearest(texts: Tensor, queue: Tensor) -> Tensor:
    """The row of the queue that is nearest to each text [batch, dim]."""
    queue = queue.to(texts.dtype)
    return queue[(texts @ queue.T).argmax(dim=1)]
