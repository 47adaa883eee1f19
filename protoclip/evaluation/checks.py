"""Input checks that every evaluation shares: each failure is a ``ValueError`` of one line that names the argument."""

import torch
from torch import Tensor


def checked_features(name: str, features: Tensor, ndim: int = 2) -> Tensor:
    """Return detached floating-point features, half precision raised to float32.

    Args:
        name: The argument's name, for the message.
        features: [samples, dim], or another shape of ``ndim`` axes.
        ndim: Expected number of axes.

    Raises:
        ValueError: If the shape is wrong, the tensor is empty, or a value is NaN or infinite.
    """
    if features.ndim != ndim:
        raise ValueError(f"{name} needs {ndim} axes, got the shape {list(features.shape)}")
    if features.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {list(features.shape)}")
    features = features.detach()
    features = features if features.dtype in (torch.float32, torch.float64) else features.float()
    if not bool(torch.stack(features.aminmax()).isfinite().all()):  # needs no memory of the features' size
        raise ValueError(f"{name} holds NaN or infinite values: the model that made it has diverged")
    return features


def check_same_dim(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Raise ``ValueError`` unless the last axes agree."""
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"{first_name} and {second_name} differ in dim, {first.shape[-1]} and {second.shape[-1]}: "
            "both must come from one embedding space"
        )


def checked_labels(
    name: str, labels: Tensor, features: Tensor, num_classes: int | None = None, *, minimum: int = 0
) -> Tensor:
    """Return int64 labels [samples] on the features' device.

    Args:
        name: The argument's name, for the message.
        labels: Integer labels, one per row of ``features``.
        features: What the labels belong to.
        num_classes: Labels must be below it; None: no upper bound.
        minimum: Lowest label; -1 where unlabelled samples are allowed.

    Raises:
        ValueError: If the counts differ, the labels are no integers, or one is out of range.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"{name} has the shape {list(labels.shape)}, but there are {len(features)} samples")
    low, high = int(labels.min()), int(labels.max())
    if low < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {low}: leave unlabelled samples out")
    if num_classes is not None and high >= num_classes:
        raise ValueError(
            f"{name} must be below {num_classes}, the number of classes or images, got {high}: "
            "both must come from one set"
        )
    return labels.detach().to(device=features.device, dtype=torch.int64)


def checked_splits(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features [samples, dim] and labels [samples] of two splits, all on the device of the training features.

    Raises:
        ValueError: If dims or counts differ, a label is negative, or something is empty or not finite.
    """
    train = checked_features("train_features", train_features)
    test = checked_features("test_features", test_features).to(train.device)
    check_same_dim("train_features", train, "test_features", test)
    return (
        train,
        checked_labels("train_labels", train_labels, train),
        test,
        checked_labels("test_labels", test_labels, test),
    )
