import pytest

from datamodules.unopened import UnopenedCorpus


def test_there_is_nothing_to_train_on() -> None:
    corpus = UnopenedCorpus("abc", 32)
    assert (corpus.fingerprint, len(corpus), corpus.strata, corpus.caption_count) == ("abc", 32, None, None)
    for read in (corpus.image, corpus.captions, corpus.label):
        with pytest.raises(ValueError, match=r"evaluated as it is has no corpus: choose data=\.\.\. to train"):
            read(0)
