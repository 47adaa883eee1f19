"""The text tower: an open_clip text transformer, or a transformers model, with its tokens and their mask."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from protoclip.towers.image import Encoded, unit

TextPooling = Literal["eot", "max"]


class TextTower(nn.Module):
    """Wraps open_clip's ``TextTransformer`` or ``HFTextEncoder``; parameters stay named ``text.*``.

    Attributes:
        pooled_dim: Width of the state before the projection.
        token_dim: Width of the tokens, the same.
        embed_dim: Width of the joint space.
        context_length: Most token ids that a caption has.
        vocab_size: Rows of the token embedding.
        has_mask_token: Whether the last of them is that of ``add_token``.
        eot_id: Id that ends a caption, where it is pooled; None where the tower pools in another way.
        tokenizer_name: The transformers tokenizer whose ids it reads; None is open_clip's BPE.
    """

    def __init__(
        self,
        text: Any,
        embed_dim: int,
        *,
        context_length: int,
        tokenizer_name: str | None = None,
        pooling: TextPooling = "eot",
    ) -> None:
        """Wrap a module built by open_clip.

        Args:
            text: ``text`` of an open_clip ``CustomTextCLIP``.
            embed_dim: Width of its output.
            context_length: Most token ids that a caption has.
            tokenizer_name: The transformers tokenizer whose ids it reads; None is open_clip's BPE.
            pooling: ``eot``: where its config says, which is the end of text; ``max``: the largest value over all
                positions, those behind the end too, as PyramidCLIP's released weights need it.

        Raises:
            ValueError: For a text transformer with CoCa's class token, and for another pooling than it can do.
        """
        import open_clip  # noqa: PLC0415 - takes seconds

        super().__init__()
        self.text = text
        self.embed_dim = embed_dim
        self.context_length = context_length
        self.vocab_size = int(text.vocab_size)
        self.has_mask_token = False
        self.tokenizer_name = tokenizer_name
        self._is_hf = isinstance(text, open_clip.hf_model.HFTextEncoder)
        if not self._is_hf and text.cls_emb is not None:
            raise ValueError("embed_cls is for captioning models; leave it out of text_cfg")
        if pooling not in get_args(TextPooling):
            raise ValueError(f"text_pooling is one of {', '.join(get_args(TextPooling))}, not {pooling!r}")
        if self._is_hf and pooling != "eot":
            raise ValueError("a transformers text tower is pooled by text_cfg hf_pooler_type; leave text_pooling=eot")
        self.pooling = pooling
        self.token_dim = int(text.transformer.config.hidden_size if self._is_hf else text.width)
        self.pooled_dim = self.token_dim
        self.eot_id = None if self._is_hf else _eot_id(text)

    def add_token(self) -> int:
        """Append one row to the token embedding, for a mask token; all other ids stay, the end of text too.

        Returns:
            The new id.

        Raises:
            ValueError: For a transformers model.
        """
        if self._is_hf:
            raise ValueError("a transformers text tower has its own mask token; leave mask_token out")
        old = self.text.token_embedding.weight
        new = nn.Embedding(len(old) + 1, old.shape[1], dtype=old.dtype, device=old.device)
        with torch.no_grad():
            new.weight.normal_(std=0.02)
            new.weight[:-1] = old
        self.text.token_embedding = new
        self.text.vocab_size = self.vocab_size = len(new.weight)
        self.has_mask_token = True
        if self.eot_id is not None:
            # the wrapped module's argmax would take the new id for the end of text
            self.text.pool_type, self.text.eos_id = "eos", self.eot_id
        return self.vocab_size - 1

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Encode captions.

        Args:
            ids: Token ids [B, L], L <= context_length; each caption holds ``eot_id``, as the tokenizer sees to.

        Returns:
            ``tokens`` [B, L, token_dim], the states after the final LayerNorm; ``token_mask`` [B, L], True up to and
            with the first end of text (a transformers tower: True where not padding; a tower that pools elsewhere
            reads its padding: all True); ``pooled`` [B, pooled_dim]; ``embedding`` [B, embed_dim], open_clip's
            ``encode_text``; ``features``, the same at unit length.
        """
        mask = self._token_mask(ids)
        tokens, pooled, embedding = self._encode_hf(ids, mask) if self._is_hf else self._encode(ids, mask)
        return {
            "pooled": pooled,
            "embedding": embedding,
            "features": unit(embedding),
            "tokens": tokens,
            "token_mask": mask,
        }

    def lengths(self, ids: Tensor) -> Tensor:
        """How many ids of each caption its outputs depend on [B]: up to the end if it is pooled there, else all L."""
        looks_back = not self._is_hf and self.text.attn_mask is not None
        if looks_back and self.pooling == "eot" and self.eot_id is not None:
            return self._token_mask(ids).sum(dim=1)
        return ids.new_full((len(ids),), ids.shape[1])

    def _token_mask(self, ids: Tensor) -> Tensor:
        if self._is_hf:
            is_token: Tensor = ids != self.text.config.pad_token_id
            return is_token
        if self.eot_id is None:
            return torch.ones_like(ids, dtype=torch.bool)
        # neither `ids != 0` (0 is "!") nor argmax (a token appended to the vocabulary exceeds the end of text)
        ends = (ids == self.eot_id).long()
        return ends.cumsum(dim=1) == ends

    def _encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        text = self.text
        states, attention_mask = text._embeds(ids)
        if attention_mask is not None:  # open_clip's is as long as the context
            attention_mask = attention_mask[..., : ids.shape[1], : ids.shape[1]]
        tokens = text.ln_final(text.transformer(states, attn_mask=attention_mask))
        if self.pooling == "max":
            pooled = tokens.amax(dim=1)
        elif self.eot_id is None:
            pooled = tokens[:, 0 if text.pool_type == "first" else -1]
        else:
            pooled = tokens[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1]
        return Encoded(tokens, pooled, _project(text.text_projection, pooled))

    def _encode_hf(self, ids: Tensor, mask: Tensor) -> Encoded:
        attention_mask = mask.long()
        states = self.text.transformer(input_ids=ids, attention_mask=attention_mask)
        pooled = self.text.pooler(states, attention_mask)
        return Encoded(states.last_hidden_state, pooled, self.text.proj(pooled))


def _project(projection: nn.Linear | Tensor | None, pooled: Tensor) -> Tensor:
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _eot_id(text: Any) -> int | None:
    if text.pool_type == "eos":
        return int(text.eos_id)
    # open_clip's argmax takes the largest id for the end of text
    return int(text.vocab_size) - 1 if text.pool_type == "argmax" else None
