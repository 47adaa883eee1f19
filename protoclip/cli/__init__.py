"""The command line: ``protoclip-train`` and ``protoclip``, the only code that sees every layer."""

from protoclip.cli.main import main
from protoclip.cli.train import train

__all__ = ["main", "train"]
