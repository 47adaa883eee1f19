"""Text teachers of transformers, such as RoBERTa and MiniLM."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from protoclip.pretrained import load_pretrained
from protoclip.ranges import PositiveInt
from protoclip.teachers.encoders import Encoder

Pooling: TypeAlias = Literal["mean", "cls", "upstream"]
PARTS = 4
"""That a batch is encoded in, by length: at once, half of what is computed would be padding."""


class TransformersText(Encoder):
    """A transformers model over captions.

    Args:
        model: Folder or hub id, or ``package:NAME/FOLDER`` for a folder in an installed Python package.
        pooling: ``mean`` over the states of real tokens; ``cls``, the first state; ``upstream``, the mean over
            ``max_length`` positions, filled with id 0 that is attended to, as ProtoCLIP's code has it.
        max_length: Most token ids of a caption.
        revision: Of a hub id: branch, tag or commit.
        device: As for every encoder.
    """

    kind = "text"

    def __init__(
        self,
        model: str,
        *,
        pooling: Pooling = "mean",
        max_length: PositiveInt = 77,
        revision: str | None = None,
        device: str = "auto",
    ) -> None:
        super().__init__(device)
        self.model = model
        self.pooling = pooling
        self.max_length = max_length
        self.revision = revision

    def describe(self) -> dict[str, Any]:
        """Model, pooling, length and revision."""
        settings = {"model": self.model, "pooling": self.pooling, "max_length": self.max_length}
        return {"library": "transformers", **settings, "revision": self.revision}

    def _load(self) -> tuple[Any, nn.Module]:
        from transformers import AutoModel  # noqa: PLC0415 - takes seconds

        tokenizer, network = load_pretrained(self.model, AutoModel, revision=self.revision, option="model")
        if network.main_input_name != "input_ids" or hasattr(network.config, "vision_config"):
            told = f"model={self.model} is no model of texts alone"
            raise ValueError(f"{told}: open_clip's text towers are teacher=clip_text")
        return tokenizer, network.get_encoder() if network.config.is_encoder_decoder else network

    def _encode(self, items: Sequence[Any]) -> Tensor:
        length = min(self.max_length, self._preprocess.model_max_length)
        rows = self._preprocess(list(items), truncation=True, max_length=length)["input_ids"]
        ids = [torch.tensor(row) for row in rows]
        order = torch.tensor([len(row) for row in ids]).argsort(stable=True)
        pooled = [self._pool([ids[row] for row in part], length) for part in order.chunk(PARTS)]
        return torch.cat(pooled)[order.argsort()]

    def _pool(self, ids: Sequence[Tensor], length: int) -> Tensor:
        """Pooled states [n, dim] of n captions of similar length."""
        if self.pooling == "upstream":
            padded = torch.stack([F.pad(row, (0, length - len(row))) for row in ids])
            mask = torch.ones_like(padded)
        else:
            padded = pad_sequence(list(ids), batch_first=True, padding_value=self._preprocess.pad_token_id or 0)
            mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        padded, mask = padded.to(self._place), mask.to(self._place)
        states: Tensor = self._network(input_ids=padded, attention_mask=mask).last_hidden_state
        return states[:, 0] if self.pooling == "cls" else masked_mean(states, mask)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean [n, dim] of the states [n, length, dim] where the mask [n, length] is 1."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
