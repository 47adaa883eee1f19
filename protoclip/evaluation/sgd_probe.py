"""Linear probe by SGD on frozen features: ProtoCLIP's classifier for ImageNet, too large for L-BFGS (section V)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from protoclip.devices import chosen_device
from protoclip.evaluation.checks import checked_splits
from protoclip.evaluation.ranking import normalised
from protoclip.evaluation.task import Sets, Task
from protoclip.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

_CHUNK = 4096


def sgd_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    epochs: int = 100,
    batch_size: int = 256,
    learning_rate: float = 0.3,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
    normalize: bool = False,
    standardize: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, float]:
    """Test accuracy of a linear classifier trained by SGD on features as they are, after the last epoch.

    The weights start from N(0, 0.01), the biases from 0; the rate falls along a cosine, epoch by epoch. No epoch is
    chosen by the test set.

    Args:
        train_features: [train, dim] un-normalised embeddings.
        train_labels: [train], at least two classes.
        test_features: [test, dim].
        test_labels: [test]; a class that is not in the training labels counts as wrong.
        epochs: Passes over the training samples.
        batch_size: Samples per step, in an order drawn for each epoch; the last step of an epoch may have fewer.
        learning_rate: Of the first epoch.
        momentum: Of SGD.
        weight_decay: On weights and biases.
        normalize: L2-normalise each feature first.
        standardize: Give each dimension mean 0 and variance 1 over the training samples.
        seed: Draws the first weights and the orders.
        device: Where the classifier is trained; ``auto``: CUDA where there is one.

    Returns:
        ``top1`` in percent.

    Raises:
        ValueError: If dims or counts differ, there is one class only, or an option is out of range.
    """
    train, train_labels, test, test_labels = checked_splits(train_features, train_labels, test_features, test_labels)
    classes, targets = torch.unique(train_labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("train_labels hold one class: a linear probe needs at least two classes")
    if min(epochs, batch_size) < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    place = chosen_device(device, "device")
    train, test = (normalised(x) if normalize else x for x in (train.to(place), test.to(place)))
    if standardize:
        std, mean = torch.std_mean(train, dim=0, correction=0)
        std = std.where(std > 0, 1)
        train, test = (train - mean) / std, (test - mean) / std
    sgd = partial(SGD, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    weight, bias = _fit(train, targets.to(place), len(classes), sgd, epochs, batch_size, seed)
    predicted = torch.cat([(rows @ weight.T + bias).argmax(dim=1) for rows in torch.split(test, _CHUNK)])
    return {"top1": 100 * float((classes[predicted.to(classes.device)] == test_labels).double().mean())}


def _fit(
    x: Tensor, y: Tensor, num_classes: int, sgd: Callable[..., SGD], epochs: int, batch_size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Weights [classes, dim] and biases [classes]."""
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the draws are the same on every device
    with torch.inference_mode(mode=False), torch.enable_grad():  # a Trainer evaluates without gradients
        weight = (0.01 * torch.randn(num_classes, x.shape[1], generator=generator, dtype=x.dtype)).to(x.device)
        weight, bias = weight.requires_grad_(), torch.zeros_like(weight[:, 0]).requires_grad_()
        optimizer = sgd([weight, bias])
        schedule = CosineAnnealingLR(optimizer, T_max=epochs)
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for rows in torch.split(order, batch_size):
                optimizer.zero_grad()
                torch.autograd.backward(functional.cross_entropy(functional.linear(x[rows], weight, bias), y[rows]))
                optimizer.step()
            schedule.step()
    return weight.detach(), bias.detach()


class SGDProbe(Task):
    """Linear classifier by SGD on the raw embedding; its options are those of ``sgd_probe``.

    Args:
        pictures: a labelled set.
        train: the labelled set that is fitted on.
        epochs: passes over it.
        batch_size: samples per step.
        learning_rate: of the first epoch.
        momentum: of SGD.
        weight_decay: on weights and biases.
        normalize: L2-normalise each embedding.
        standardize: give each dimension mean 0 and variance 1.
        seed: draws the first weights and the orders.
        device: where the classifier is trained; ``auto``: CUDA where there is one.
    """

    def __init__(
        self,
        pictures: str,
        train: str,
        epochs: PositiveInt = 100,
        batch_size: PositiveInt = 256,
        learning_rate: PositiveFloat = 0.3,
        momentum: NonNegativeFloat = 0.9,
        weight_decay: NonNegativeFloat = 1e-6,
        normalize: bool = False,
        standardize: bool = False,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        super().__init__(pictures, train)
        self.options: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "normalize": normalize,
            "standardize": standardize,
            "seed": seed,
            "device": device,
        }

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        return sgd_probe(*self.splits(sets, "embedding"), **self.options)
