"""Heads on top of the towers' embeddings."""

from typing import Literal

from torch import Tensor, nn

from protoclip.ranges import NonNegativeInt, PositiveInt
from protoclip.towers.image import unit

_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


class ProjectionHead(nn.Module):
    """Linear - norm - ReLU, ``hidden_layers`` times, then Linear; unit vectors out.

    The head of SwAV (https://arxiv.org/abs/2006.09882), which ProtoCLIP (https://arxiv.org/abs/2206.10996, section III)
    puts on the embeddings before they are normalised. Linear layers have biases and PyTorch's default initialisation.
    """

    def __init__(
        self,
        in_dim: PositiveInt,
        hidden_dim: PositiveInt = 2048,
        out_dim: PositiveInt = 128,
        hidden_layers: NonNegativeInt = 1,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        """Build a head.

        Args:
            in_dim: Width of the embedding.
            hidden_dim: Width of the hidden layers.
            out_dim: Width of the projected features.
            hidden_layers: 0 is a single linear layer.
            norm: ``batch``, ``layer`` or ``none``, after each hidden linear layer.

        Raises:
            ValueError: For another norm, or a negative number of layers.
        """
        super().__init__()
        if norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}, not {norm!r}")
        if hidden_layers < 0:
            raise ValueError(f"hidden_layers must be 0 or more, not {hidden_layers}")
        layers: list[nn.Module] = []
        width = in_dim
        for _ in range(hidden_layers):
            layers += [nn.Linear(width, hidden_dim), _NORMS[norm](hidden_dim), nn.ReLU(inplace=True)]
            width = hidden_dim
        self.layers = nn.Sequential(*layers, nn.Linear(width, out_dim))
        self.out_dim = out_dim

    def forward(self, embedding: Tensor) -> Tensor:
        """Project un-normalised embeddings [B, in_dim] to unit vectors [B, out_dim], normalised in float32."""
        return unit(self.layers(embedding))


class LinearHead(nn.Module):
    """A linear map without bias, not normalised: a prediction in another space, such as a teacher's."""

    def __init__(self, in_dim: PositiveInt, out_dim: PositiveInt) -> None:
        """Build a head.

        Args:
            in_dim: Width of the embedding.
            out_dim: Width of the result.
        """
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.out_dim = out_dim

    def forward(self, embedding: Tensor) -> Tensor:
        """Map un-normalised embeddings [B, in_dim] to [B, out_dim]."""
        mapped: Tensor = self.linear(embedding)
        return mapped
