"""A picture set that is not on the disk."""

import hashlib

from datamodules.sources import Picture, Pictures


class MissingSet(Pictures):
    """Stands for a set that was not found: the datamodule leaves it out, and says why.

    Args:
        name: of the set.
        reason: in one line, with what to put where.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        self.fingerprint = hashlib.sha256(b"missing").hexdigest()

    def __len__(self) -> int:
        return 0

    def image(self, index: int) -> Picture:
        """There is none.

        Raises:
            IndexError: always.
        """
        raise IndexError(f"{self.name} is missing: {self.reason}")

    def label(self, index: int) -> int:
        """There is none.

        Raises:
            IndexError: always.
        """
        raise IndexError(f"{self.name} is missing: {self.reason}")
