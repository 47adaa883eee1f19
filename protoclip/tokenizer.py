"""Captions to token ids: open_clip's byte-pair tokenizer, or the tokenizer of a transformers text tower."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

from protoclip.towers import model_config
from protoclip.towers.configs import FOLDER

LONGEST = 100_000
"""Characters of a caption that are looked at; what stands behind them is beyond any context."""


class Tokenizer:
    """Cuts captions to a fixed number of ids, always with the end of text in them.

    A caption of any length costs milliseconds: cleaning and merging are not linear, so only as much of it goes through
    them as the ids can cover.

    Holds only its settings, so it is cheap to pickle; each process reads the vocabulary at its first caption.
    open_clip's vocabulary ships in its wheel: no download, and no cache that may be empty.
    """

    def __init__(
        self, context_length: int = 77, hf_name: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        """Choose a tokenizer.

        Args:
            context_length: Ids per caption, start and end included.
            hf_name: A transformers tokenizer, folder or hub id; None is open_clip's BPE, as in CLIP.
            options: Further arguments of open_clip's ``SimpleTokenizer`` or ``HFTokenizer``, such as ``clean``.

        Raises:
            ValueError: For a context length without room for a token between start and end.
        """
        if context_length < 3:
            raise ValueError(f"context_length must be 3 or more (start, token, end), not {context_length}")
        self.context_length = context_length
        self.hf_name = hf_name
        self.options = dict(options or {})
        self._loaded: Any = None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids of captions.

        Args:
            texts: n captions.

        Returns:
            int64 [n, context_length], padded behind the end of text.
        """
        ids: Tensor = self._tokenizer(texts if isinstance(texts, str) else list(texts))
        return ids

    @property
    def identity(self) -> str | None:
        """What ids depend on beside the context length; None of a transformers tokenizer, whose files may change."""
        if self.hf_name is not None:
            return None
        return json.dumps([version("open_clip_torch"), self.options], sort_keys=True)

    @cached_property
    def vocabulary_hash(self) -> str:
        """SHA-256 of a transformers tokenizer's vocabulary, and of its rules where a backend tells them."""
        assert self.hf_name is not None
        tokenizer = self._tokenizer.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        told = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
        told |= {"padding": None, "truncation": None}  # each call sets a backend's anew
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def eot_id(self) -> int:
        """Id of the end of text, where a caption is pooled."""
        if self.hf_name is None:
            return int(self._tokenizer.eot_token_id)
        hf = self._tokenizer.tokenizer
        return int(hf.sep_token_id if hf.eos_token_id is None else hf.eos_token_id)

    @property
    def sot_id(self) -> int | None:
        """Id of the start of text; None for a tokenizer without."""
        if self.hf_name is None:
            return int(self._tokenizer.sot_token_id)
        hf = self._tokenizer.tokenizer
        start = hf.cls_token_id if hf.bos_token_id is None else hf.bos_token_id
        return None if start is None else int(start)

    @property
    def vocab_size(self) -> int:
        """Number of ids; 49,408 for open_clip's BPE."""
        return int(self._tokenizer.vocab_size if self.hf_name is None else len(self._tokenizer.tokenizer))

    @property
    def mask_id(self) -> int:
        """Id of the mask token: behind open_clip's vocabulary, or the transformers tokenizer's own.

        Raises:
            ValueError: For a transformers tokenizer without.
        """
        if self.hf_name is None:
            return self.vocab_size
        found = self._tokenizer.tokenizer.mask_token_id
        if found is None:
            raise ValueError(f"the tokenizer {self.hf_name} has no mask token: choose a towers.hf_text that has one")
        return int(found)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no part of a text."""
        return frozenset((self._tokenizer if self.hf_name is None else self._tokenizer.tokenizer).all_special_ids)

    def decode(self, ids: Tensor) -> str:
        """The text of ids [length], up to its end, with ``<mask>`` for each mask token."""
        decode = (self._tokenizer if self.hf_name is None else self._tokenizer.tokenizer).decode
        parts: list[list[int]] = [[]]
        for number in takewhile(lambda number: number != self.eot_id, ids.tolist()):
            if number == self.mask_id:
                parts.append([])
            elif number not in self.special_ids:
                parts[-1].append(number)
        return " ".join(" <mask> ".join(map(decode, parts)).split())

    def save(self, folder: Path) -> None:
        """Write the files of a transformers tokenizer into a folder."""
        assert self.hf_name is not None
        self._tokenizer.save_pretrained(folder)

    @property
    def _tokenizer(self) -> Any:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Any:
        if self.hf_name is None:
            return _byte_pair_tokenizer(self.context_length, json.dumps(self.options))
        import open_clip  # noqa: PLC0415 - takes seconds

        tokenizer = open_clip.tokenizer.HFTokenizer(self.hf_name, context_length=self.context_length, **self.options)
        return _shortening(tokenizer, LONGEST)

    def __getstate__(self) -> dict[str, Any]:
        """Settings without the vocabulary."""
        return {**self.__dict__, "_loaded": None}


@lru_cache
def _byte_pair_tokenizer(context_length: int, options: str) -> Any:
    """open_clip's tokenizer, whose vocabulary a process reads once."""
    import open_clip  # noqa: PLC0415 - takes seconds

    tokenizer = open_clip.SimpleTokenizer(context_length=context_length, **json.loads(options))
    # No id covers more characters than the longest entry of the vocabulary and a space. The ids of a word that is cut
    # differ from the whole word's near the cut alone, and that is beyond the margin.
    return _shortening(tokenizer, (context_length + 16) * (1 + max(map(len, tokenizer.encoder))))


def _shortening(tokenizer: Any, kept: int) -> Any:
    """A tokenizer that looks at no more of a caption than some characters."""
    clean = tokenizer.clean_fn
    tokenizer.clean_fn = lambda text: clean(text[:LONGEST])[:kept]
    return tokenizer


def create_tokenizer(
    name: str,
    *,
    context_length: int | None = None,
    hf_text: str | None = None,
    text_cfg: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """The tokenizer of the towers that ``create_towers`` builds from the same arguments.

    Raises:
        ValueError: For an unknown name.
    """
    config = model_config(name, context_length=context_length, hf_text=hf_text, text_cfg=text_cfg)["text_cfg"]
    hf_name = config.get("hf_tokenizer_name")
    if hf_name and hf_text is None and name.startswith(FOLDER):
        hf_name = name.removeprefix(FOLDER)  # where open_clip looks for it, whatever the config says
    options = dict(config.get("tokenizer_kwargs") or {})
    if config.get("tokenizer_mode"):
        options["tokenizer_mode"] = config["tokenizer_mode"]
    return Tokenizer(config.get("context_length", 77), hf_name, options)
