"""What shortens captions: a sequence-to-sequence model of transformers such as T5, or the first words alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from protoclip.devices import chosen_device
from protoclip.pretrained import load_pretrained
from protoclip.ranges import PositiveInt


class Summariser(ABC):
    """Short texts of captions; cheap to make."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the summaries depend on, in plain values, as the user gave it; does not load a model."""

    def load(self) -> None:  # noqa: B027 - most need nothing
        """Make ready. Raises ValueError where the model cannot be loaded."""

    @abstractmethod
    def __call__(self, captions: Sequence[str]) -> list[str]:
        """A summary of each caption, which may be empty."""


class Lead(Summariser):
    """The first words of a caption: the summary that news are measured by, and no model.

    Args:
        words: Most words.
    """

    def __init__(self, words: PositiveInt = 8) -> None:
        self.words = words

    def describe(self) -> dict[str, Any]:
        """That it is the lead, and its length."""
        return {"library": None, "name": "lead", "words": self.words}

    def __call__(self, captions: Sequence[str]) -> list[str]:
        """The first words, one space between them."""
        return [" ".join(caption.split()[: self.words]) for caption in captions]


class Seq2Seq(Summariser):
    """Any sequence-to-sequence model of transformers, by beam search.

    Args:
        name: Folder or hub id, or ``package:NAME/FOLDER`` for a folder in an installed Python package.
        prefix: Before each caption; what T5 knows the task by.
        max_length: Most token ids of a caption with its prefix.
        max_new_tokens: Most token ids of a summary.
        num_beams: Of the search; 1 is greedy.
        revision: Of a hub id: branch, tag or commit.
        device: Where the model runs; ``auto`` is CUDA where there is one. Not part of ``describe``.
    """

    def __init__(
        self,
        name: str,
        *,
        prefix: str = "summarize: ",
        max_length: PositiveInt = 512,
        max_new_tokens: PositiveInt = 20,
        num_beams: PositiveInt = 4,
        revision: str | None = None,
        device: str = "auto",
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.max_length = max_length
        self.search = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
        self.revision = revision
        self.device = device
        self._tokenizer: Any = None
        self._network: Any = None

    def describe(self) -> dict[str, Any]:
        """Model, prefix, lengths, beams and revision."""
        settings = {"name": self.name, "prefix": self.prefix, "max_length": self.max_length, **self.search}
        return {"library": "transformers", **settings, "revision": self.revision}

    def load(self) -> None:
        """Load the tokenizer and the model."""
        from transformers import AutoModelForSeq2SeqLM  # noqa: PLC0415 - takes seconds

        if self._network is None:
            place = chosen_device(self.device, "summariser.model.device")
            auto, option = AutoModelForSeq2SeqLM, "summariser.model.name"
            self._tokenizer, network = load_pretrained(self.name, auto, revision=self.revision, option=option)
            self._network = network.to(place).eval()

    def __call__(self, captions: Sequence[str]) -> list[str]:
        """What the model says of each caption.

        Raises:
            ValueError: The model cannot be loaded.
        """
        self.load()
        length = min(self.max_length, self._tokenizer.model_max_length)
        texts = [self.prefix + caption for caption in captions]
        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            ids = self._network.generate(
                input_ids=batch["input_ids"].to(self._network.device),
                attention_mask=batch["attention_mask"].to(self._network.device),
                do_sample=False,
                **self.search,
            )
        summaries: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return summaries
