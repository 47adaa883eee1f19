"""The loss of a large batch in the memory of a small one: gradients of cached features.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021): features of all rows
without a graph, the loss of the whole batch on them, then each part of the batch once more, with a graph and the same
random draws, to carry the gradients of its features on to the parameters.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from protoclip.terms import FeatureKey

Features = dict[FeatureKey, Tensor]
Encode = Callable[[Mapping[str, Tensor]], Features]


class FeatureCache:
    """Features of a batch that are encoded in parts of ``size`` rows.

    Batch norms see each part by itself, and count its statistics once.

    Args:
        module: what is trained.
        encode: views of some rows to their features, with graph where grad is enabled.
        views: inputs by view name, as many rows each.
        size: rows of a part.

    Attributes:
        features: those of all rows; a loss of them gives each its gradient.
    """

    def __init__(self, module: nn.Module, encode: Encode, views: Mapping[str, Tensor], size: int) -> None:
        self._encode = encode
        rows = len(next(iter(views.values())))
        spans = [slice(start, start + size) for start in range(0, rows, size)]
        self._parts = [({name: value[span] for name, value in views.items()}, span) for span in spans]
        self._random: list[tuple[Tensor, tuple[list[int], list[Tensor]]]] = []
        encoded = []
        with torch.no_grad(), _running_statistics_kept(module):
            for part, _ in self._parts:
                self._random.append((torch.get_rng_state(), get_device_states(*part.values())))
                encoded.append(encode(part))
        whole = {key: torch.cat([features[key] for features in encoded]) for key in encoded[0]}
        self.features = {key: value.requires_grad_(value.is_floating_point()) for key, value in whole.items()}

    def backward(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        """Add the parameters' gradients, after the loss has gone backward.

        Args:
            context: that of the forward pass, such as autocast.
        """
        gradients = {key: value.grad for key, value in self.features.items() if value.grad is not None}
        devices = self._random[0][1][0]
        with torch.random.fork_rng(devices):
            for (part, span), (state, device_states) in zip(self._parts, self._random, strict=True):
                torch.set_rng_state(state)
                set_device_states(*device_states)
                with context():
                    features = self._encode(part)
                reached = {key: gradient[span] for key, gradient in gradients.items() if features[key].requires_grad}
                torch.autograd.backward([features[key] for key in reached], list(reached.values()))


@contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms of a module as in training, but for their running statistics and counts, which stay."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    kept = [
        (norm.momentum, None if norm.num_batches_tracked is None else int(norm.num_batches_tracked)) for norm in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and batches is not None:
                norm.num_batches_tracked.fill_(batches)
