"""Self-supervision of the image tower by two views of a picture."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from protoclip.distributed import all_gather, local_rows
from protoclip.heads import Norm, SimSiamPredictor
from protoclip.losses import ntxent_loss, simsiam_loss
from protoclip.ranges import PositiveFloat, PositiveInt
from protoclip.terms.base import FeatureKey, StepInputs, Term


def _two_views(views: Sequence[str], head: str) -> tuple[FeatureKey, FeatureKey]:
    if len(set(views)) != 2 or len(views) != 2:
        raise ValueError(f"image self-supervision compares two views, not {', '.join(views)}: name two image views")
    return FeatureKey("image", views[0], head), FeatureKey("image", views[1], head)


class SimCLR(Term):
    """NT-Xent between two image views (SLIP).

    Args:
        views: two image views.
        head: name of the head, unit vectors.
        temperature: fixed, not learnt.
        weight: factor in the total loss.

    Raises:
        ValueError: not two views.
    """

    contrastive: ClassVar[bool] = True

    def __init__(
        self, views: Sequence[str], *, head: str = "simclr", temperature: PositiveFloat = 0.1, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self.keys = _two_views(views, head)
        self.temperature = temperature

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return self.keys

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        first, second = (inputs.features[key] for key in self.keys)
        rows = None
        if inputs.gathers:
            rows = local_rows(len(inputs.positions))
            first, second = all_gather(first), all_gather(second)
        return {"loss": ntxent_loss(first, second, self.temperature, rows=rows)}


class SimSiam(Term):
    """Each view's projection predicts the other's, which is a constant (DeCLIP's image self-supervision).

    Args:
        views: two image views.
        head: name of the projector.
        dim: the projector's width.
        hidden_dim: the predictor's inner width.
        norm: the predictor's ``batch``, ``layer`` or ``none``.
        weight: factor in the total loss.

    Raises:
        ValueError: not two views, or another norm.
    """

    def __init__(
        self,
        views: Sequence[str],
        *,
        head: str = "simsiam",
        dim: PositiveInt = 1024,
        hidden_dim: PositiveInt = 512,
        norm: Norm = "batch",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.keys = _two_views(views, head)
        self.dim = dim
        self.predictor = SimSiamPredictor(dim, hidden_dim, norm)

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return self.keys

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        first, second = (inputs.features[key] for key in self.keys)
        if (width := first.shape[1]) != self.dim:
            raise ValueError(f"the SimSiam predictor is {self.dim} wide, its projector {width}: set dim={width}")
        # Nothing to gather: a view meets the other view of its own picture alone
        return {"loss": simsiam_loss(self.predictor(first), self.predictor(second), first, second)}
