"""Parts of the towers that a method does not train, such as the joint projections where tokens alone are compared."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from protoclip.towers import Towers

OWN_INPUT = "regions."
"""Parameters of the image tower that only another kind of view reaches."""


def freeze_unused(towers: Towers, outputs: Mapping[str, Collection[str]]) -> None:
    """Take from training what has no part in the outputs: DDP would wait for its gradients, and it would only decay.

    Args:
        towers: what is read.
        outputs: names of those that something reads, by tower.
    """
    for name, wanted in outputs.items():
        tower = towers.get_submodule(name)
        parameters = {path: value for path, value in tower.named_parameters() if value.requires_grad}
        reached = _reached(towers, name, wanted, list(parameters.values())) if wanted else set[int]()
        for path, parameter in parameters.items():
            if id(parameter) not in reached and not path.startswith(OWN_INPUT):
                parameter.requires_grad_(False)


def _reached(towers: Towers, name: str, wanted: Collection[str], parameters: list[Tensor]) -> set[int]:
    """The parameters that the outputs for one sample have a gradient of."""
    tower, training = towers.get_submodule(name), towers.training
    tower.eval()  # statistics stay, and nothing is drawn
    try:
        with torch.enable_grad():
            found = tower(_sample(towers, name))
            total = torch.stack([found[output].sum() for output in wanted if found[output].is_floating_point()]).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        tower.train(training)
    return {id(parameter) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _sample(towers: Towers, name: str) -> Tensor:
    like = next(towers.parameters())
    if name == "image":
        side = towers.image.image_size
        return torch.zeros(1, 3, side, side, device=like.device, dtype=like.dtype)
    ids = torch.zeros(1, towers.text.context_length, device=like.device, dtype=torch.int64)
    if towers.text.eot_id is not None:
        ids[0, -1] = towers.text.eot_id
    return ids
