"""Where a frozen model runs."""

import torch


def chosen_device(name: str, option: str) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one, else the CPU.

    Args:
        name: of torch, or ``auto``.
        option: that sets it, for the message.

    Raises:
        ValueError: torch has no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch has no device {name!r} here: set {option}=auto") from error
