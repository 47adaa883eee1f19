import pytest
import torch

from protoclip.prototypes import back_translate


def test_hand_value() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    translated = back_translate(features, torch.tensor([2, 0, 2]), 4)
    torch.testing.assert_close(translated, torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.8, 0.4], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_loop(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator, dtype=dtype)
    labels = torch.randint(0, 29, (200,), generator=generator)
    labels[labels == 7] = 8
    translated = back_translate(features, labels, 30)
    assert translated.shape == (30, 6)
    assert translated.dtype == dtype
    for k in range(30):
        members = [features[i] for i in range(200) if int(labels[i]) == k]
        expected = torch.stack(members).mean(dim=0) if members else torch.zeros(6, dtype=dtype)
        torch.testing.assert_close(translated[k], expected)
    assert not bool(translated[[7, 29]].any())


def test_large_clusters_are_counted_exactly() -> None:
    """A count kept in half precision would end at 2048."""
    features = torch.ones(5001, 1)
    assert back_translate(features, torch.zeros(5001, dtype=torch.int64), 1).item() == 1.0
