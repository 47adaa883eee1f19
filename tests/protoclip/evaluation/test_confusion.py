import pytest
import torch
from sklearn.metrics import confusion_matrix as reference

from protoclip.evaluation import confusion_matrix, zero_shot_metrics


def test_by_hand_with_rows_of_the_truth() -> None:
    images = torch.tensor([[2.0, 0.1, 0.0], [0.1, 0.5, 0.0], [0.0, 3.0, 1.0]])  # taken for 0, 1, 1
    matrix = confusion_matrix(images, torch.eye(3), torch.tensor([0, 0, 1]))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert matrix.dtype == torch.int64


@pytest.mark.parametrize("chunk", [7, 4096])
def test_agrees_with_scikit_learn_and_with_the_accuracy(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    classes, labels = torch.randn(6, 8, generator=generator), torch.randint(0, 6, (90,), generator=generator)
    images = classes[labels] + 1.5 * torch.randn(90, 8, generator=generator)
    matrix = confusion_matrix(images, classes, labels, chunk=chunk)
    predicted = torch.nn.functional.cosine_similarity(images[:, None], classes[None], dim=-1).argmax(dim=1)
    assert matrix.tolist() == reference(labels, predicted, labels=range(6)).tolist()
    metrics = zero_shot_metrics(images, classes, labels)
    assert 100 * float(matrix.diag().sum()) / 90 == pytest.approx(metrics["top1"])
    assert 100 * float((matrix.diag() / matrix.sum(dim=1)).mean()) == pytest.approx(metrics["mean_per_class"])


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="image_features and class_features differ in dim"):
        confusion_matrix(torch.eye(2), torch.eye(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels must be below 2"):
        confusion_matrix(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
