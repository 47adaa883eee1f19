"""Features that the tests of tasks share."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from protoclip.evaluation import Extracted

COUNTS = torch.arange(40) % 4 + 1
OWNER = torch.arange(40).repeat_interleave(COUNTS)


def noisy(labels: Tensor, seed: int, dim: int = 6) -> Tensor:
    centres = torch.randn(4, dim, generator=torch.Generator().manual_seed(9))
    return centres[labels] + 1.2 * torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(seed))


def side(labels: Tensor, seed: int) -> dict[str, Tensor]:
    outputs = {"embedding": noisy(labels, seed), "features": functional.normalize(noisy(labels, seed + 1), dim=1)}
    return outputs | {"prototype": functional.normalize(noisy(labels, seed + 2), dim=1)}


@pytest.fixture(scope="session")
def sets() -> dict[str, Extracted]:
    """Every output of a tower has features of its own, so that no task gets away with another one."""
    train, test, pairs = torch.arange(60) % 4, torch.arange(32) % 4, torch.arange(40) % 3
    prompts = functional.normalize(noisy(torch.arange(4), 30), dim=1)
    tokens = {"words": noisy(test.repeat_interleave(3), 50).reshape(32, 3, 6)}
    words = noisy(torch.arange(4).repeat_interleave(10), 60).reshape(4, 2, 5, 6)
    asked = {"words": words, "token_mask": torch.arange(5) < torch.tensor([3, 5])[None, :, None].expand(4, 2, 1)}
    return {
        "train": Extracted(side(train, 0), train),
        "objects": Extracted(side(test, 10) | tokens, test, class_features=prompts, prompts=asked, prompts_hash="h"),
        "pairs": Extracted(side(pairs, 20), pairs, text=side(pairs[OWNER], 40), owner=OWNER),
    }
