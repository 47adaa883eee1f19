"""Models that several tests of teachers share."""

import pytest

from tests.tiny_bert import save_tiny_bert


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny BERT."""
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))
