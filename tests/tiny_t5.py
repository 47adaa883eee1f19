"""A T5 of a few thousand weights with a vocabulary of its own, saved as a folder."""

from pathlib import Path
from typing import Any

import torch

WORDS = ("▁a", "▁red", "▁dog", "▁blue", "▁sky", "▁the", "▁tree", "▁house", "▁cat", "▁grass", "▁summarize", ":")


def save_tiny_t5(folder: Path) -> str:
    """Write weights and tokenizer; returns the folder."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *((word, -2.0) for word in WORDS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=32)
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    start: dict[str, Any] = {"decoder_start_token_id": 0}
    config = T5Config(vocab_size=len(pieces), initializer_factor=3.0, **sizes, **start)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
