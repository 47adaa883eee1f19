"""What the text tower makes of the prompts of labelled sets."""

from collections import defaultdict
from collections.abc import Collection
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from datamodules.sources import Corpus, Pictures
from protoclip.evaluation import class_features
from protoclip.module import ImageTextPretraining


class Prompts:
    """Encodes the prompts of labelled sets, those of several sets once.

    Args:
        module: whose text tower does it.
        datamodule: that has the tokenizer.
    """

    def __init__(self, module: ImageTextPretraining, datamodule: ImageTextDataModule) -> None:
        self.module = module
        self.datamodule = datamodule
        self._encoded: dict[tuple[str, frozenset[str]], dict[str, Any]] = {}

    @torch.no_grad()
    def __call__(self, pictures: Pictures, outputs: frozenset[str]) -> dict[str, Any]:
        """What ``Extracted`` says of a set's prompts, with the outputs that tasks ask for; nothing without prompts."""
        digest = prompts_digest(pictures)
        if digest is None:
            return {}
        if (digest, outputs) not in self._encoded:
            shape = (len(pictures.classnames), len(pictures.templates))  # type: ignore[attr-defined]
            found = self._encode(_prompts(pictures), {"features", *outputs})
            found = {name: value.reshape(*shape, *value.shape[1:]) for name, value in found.items()}
            self._encoded[digest, outputs] = {
                "class_features": class_features(found["features"]),
                "prompts": {name: value for name, value in found.items() if name in outputs},
                "prompts_hash": digest,
                "classnames": tuple(pictures.classnames),  # type: ignore[attr-defined]
            }
        return self._encoded[digest, outputs]

    def _encode(self, prompts: list[str], outputs: Collection[str]) -> dict[str, Tensor]:
        columns: dict[str, list[Tensor]] = defaultdict(list)
        for ids in torch.split(self.datamodule.tokenize(prompts), self.datamodule.evaluation_batch_size):
            with self.module.trainer.precision_plugin.forward_context():
                encoded = self.module.encode_captions(ids.to(self.module.device))
            for name in encoded.keys() & outputs:
                value = encoded[name]
                columns[name].append((value.float() if value.is_floating_point() else value).cpu())
        return {name: torch.cat(parts) for name, parts in columns.items()}


def prompts_digest(pictures: Pictures | Corpus) -> str | None:
    """Hash of a set's prompts, None where it has none."""
    prompts = _prompts(pictures)
    return sha256("\n".join(prompts).encode()).hexdigest()[:16] if prompts else None


def _prompts(pictures: Pictures | Corpus) -> list[str]:
    names, templates = getattr(pictures, "classnames", None), getattr(pictures, "templates", None)
    return [template.format(name) for name in names or () for template in templates or ()]
