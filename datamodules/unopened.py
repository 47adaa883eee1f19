"""A corpus that stays closed: evaluating a model needs nothing of what it was trained on but its name."""

from collections.abc import Sequence

from datamodules.sources import PairSource, Picture


class UnopenedCorpus(PairSource):
    """Stands for the pairs that a model was trained on, elsewhere; there is nothing to train on.

    Args:
        fingerprint: of the corpus, as the run that was trained on it says.
        size: pairs that an episode would have.
    """

    def __init__(self, fingerprint: str, size: int) -> None:
        self.fingerprint = fingerprint
        self.size = size

    def __len__(self) -> int:
        return self.size

    def image(self, index: int) -> Picture:
        """An error.

        Raises:
            ValueError: always.
        """
        raise self._closed()

    def label(self, index: int) -> int:
        """An error, as ``image`` is."""
        raise self._closed()

    def captions(self, index: int) -> Sequence[str]:
        """An error, as ``image`` is."""
        raise self._closed()

    def _closed(self) -> ValueError:
        return ValueError("a model that is evaluated as it is has no corpus: choose data=... to train")
