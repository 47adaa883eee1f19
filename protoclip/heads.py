"""Heads on top of the towers' outputs: of embeddings, or of what a class names as ``reads``."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from protoclip.ranges import NonNegativeInt, PositiveInt
from protoclip.towers.image import unit

Norm = Literal["batch", "layer", "none"]
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


def _hidden(in_dim: int, out_dim: int, norm: str) -> list[nn.Module]:
    """Linear - norm - ReLU."""
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {', '.join(_NORMS)}, not {norm!r}")
    return [nn.Linear(in_dim, out_dim), _NORMS[norm](out_dim), nn.ReLU(inplace=True)]


class ProjectionHead(nn.Module):
    """Linear - norm - ReLU, ``hidden_layers`` times, then Linear; unit vectors out.

    The head of SwAV (https://arxiv.org/abs/2006.09882), which ProtoCLIP (https://arxiv.org/abs/2206.10996, section III)
    puts on the embeddings before they are normalised. Linear layers have biases and PyTorch's default initialisation.
    """

    decayed: ClassVar[bool] = False  # as in ProtoCLIP's code

    def __init__(
        self,
        in_dim: PositiveInt,
        hidden_dim: PositiveInt = 2048,
        out_dim: PositiveInt = 128,
        hidden_layers: NonNegativeInt = 1,
        norm: Norm = "batch",
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
        if hidden_layers < 0:
            raise ValueError(f"hidden_layers must be 0 or more, not {hidden_layers}")
        layers: list[nn.Module] = []
        width = in_dim
        for _ in range(hidden_layers):
            layers += _hidden(width, hidden_dim, norm)
            width = hidden_dim
        self.layers = nn.Sequential(*layers, nn.Linear(width, out_dim))
        self.out_dim = out_dim

    def forward(self, embedding: Tensor) -> Tensor:
        """Project un-normalised embeddings [B, in_dim] to unit vectors [B, out_dim], normalised in float32."""
        return unit(self.layers(embedding))


class LinearHead(nn.Module):
    """A linear map without bias, not normalised: a prediction in another space, such as a teacher's."""

    decayed: ClassVar[bool] = False

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


class SimCLRHead(ProjectionHead):
    """Two hidden layers on the state before the joint projection, unit vectors out.

    The head of SLIP's self-supervision (https://arxiv.org/abs/2112.12750): 4096 - 4096 - 256.
    """

    reads: ClassVar[str] = "pooled"
    decayed: ClassVar[bool] = True

    def __init__(
        self,
        in_dim: PositiveInt,
        hidden_dim: PositiveInt = 4096,
        out_dim: PositiveInt = 256,
        hidden_layers: NonNegativeInt = 2,
        norm: Norm = "batch",
    ) -> None:
        """Build a head.

        Args:
            in_dim: Width of the pooled state.
            hidden_dim: Width of the hidden layers.
            out_dim: Width of the projected features.
            hidden_layers: 0 is a single linear layer.
            norm: ``batch``, ``layer`` or ``none``, after each hidden linear layer.
        """
        super().__init__(in_dim, hidden_dim, out_dim, hidden_layers, norm)


class SimSiamProjector(nn.Module):
    """Linear - norm - ReLU twice, then Linear - norm, all of one width; not normalised to unit length.

    The projector of SimSiam (https://arxiv.org/abs/2011.10566), which DeCLIP puts on the embeddings.
    """

    def __init__(self, in_dim: PositiveInt, out_dim: PositiveInt = 1024, norm: Norm = "batch") -> None:
        """Build a projector.

        Args:
            in_dim: Width of the embedding.
            out_dim: Width of all layers.
            norm: ``batch``, ``layer`` or ``none``, after each linear layer.

        Raises:
            ValueError: For another norm.
        """
        super().__init__()
        hidden = [*_hidden(in_dim, out_dim, norm), *_hidden(out_dim, out_dim, norm)]
        self.layers = nn.Sequential(*hidden, nn.Linear(out_dim, out_dim), _NORMS[norm](out_dim))
        self.out_dim = out_dim

    def forward(self, embedding: Tensor) -> Tensor:
        """Project un-normalised embeddings [B, in_dim] to [B, out_dim]."""
        projected: Tensor = self.layers(embedding)
        return projected


class SimSiamPredictor(nn.Module):
    """Linear - norm - ReLU - Linear from a projector's width through a narrower one and back."""

    def __init__(self, dim: PositiveInt = 1024, hidden_dim: PositiveInt = 512, norm: Norm = "batch") -> None:
        """Build a predictor.

        Args:
            dim: Width of the projector.
            hidden_dim: Width of the hidden layer.
            norm: ``batch``, ``layer`` or ``none``, after the hidden linear layer.

        Raises:
            ValueError: For another norm.
        """
        super().__init__()
        self.layers = nn.Sequential(*_hidden(dim, hidden_dim, norm), nn.Linear(hidden_dim, dim))

    def forward(self, projected: Tensor) -> Tensor:
        """Predict the other view's projection [B, dim] from this one's [B, dim]."""
        prediction: Tensor = self.layers(projected)
        return prediction


class MaskedLMHead(nn.Module):
    """A linear map with bias from a text token's state to a logit for each word."""

    reads: ClassVar[str] = "tokens"

    def __init__(self, in_dim: PositiveInt, vocab_size: PositiveInt = 49408) -> None:
        """Build a head.

        Args:
            in_dim: Width of the tokens.
            vocab_size: Ids that may have been masked; 49,408 are those of open_clip's BPE.
        """
        super().__init__()
        self.linear = nn.Linear(in_dim, vocab_size)
        self.out_dim = vocab_size

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [..., vocab_size] of tokens [..., in_dim]."""
        logits: Tensor = self.linear(tokens)
        return logits


class TokenProjection(nn.Module):
    """A linear map of each token, unit vectors out: FILIP's late interaction (https://arxiv.org/abs/2111.07783)."""

    reads: ClassVar[str] = "tokens"

    def __init__(self, in_dim: PositiveInt, out_dim: PositiveInt = 256) -> None:
        """Build a head.

        Args:
            in_dim: Width of the tokens.
            out_dim: Width of the projected tokens.
        """
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.out_dim = out_dim

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens [B, n, in_dim] to unit vectors [B, n, out_dim], normalised in float32."""
        return unit(self.linear(tokens))
