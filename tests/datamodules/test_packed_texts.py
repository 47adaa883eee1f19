import pytest

from datamodules.packed_texts import PackedTexts


def test_packed_texts_are_a_list_in_two_buffers() -> None:
    texts = ["", "a", "Fuß", "犬", "bad \udcff name", ""]
    packed = PackedTexts.pack(texts)
    assert [packed[i] for i in range(len(packed))] == texts
    assert len(PackedTexts.pack([])) == 0
    for index in (-1, len(texts)):
        with pytest.raises(IndexError):
            packed[index]
