"""A BERT of a few thousand weights with a vocabulary of its own, saved as a folder."""

from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "photo", "of", "the", "red", "blue", "dog", "cat", "house", "tree", "on", "in", "grass", "sky")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_tiny_bert(folder: Path) -> str:
    """Write weights and tokenizer; returns the folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = [*SPECIAL, *WORDS]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=32)
    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(words), max_position_embeddings=32, initializer_range=0.5, **sizes)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def captions(count: int) -> list[str]:
    """Captions of one to twelve words."""
    return [" ".join(WORDS[(i * 7 + j * 5) % len(WORDS)] for j in range(1 + i * 3 % 12)) for i in range(count)]
