"""Which classes zero-shot classification takes for which."""

import torch
from torch import Tensor

from protoclip.evaluation.checks import check_same_dim, checked_features, checked_labels
from protoclip.evaluation.ranking import normalised, similarity


def confusion_matrix(image_features: Tensor, class_features: Tensor, labels: Tensor, *, chunk: int = 4096) -> Tensor:
    """Count the images of each class by the class that they are most similar to.

    Both sides are L2-normalised here. Of classes of equal score the first counts, so the diagonal agrees with
    ``zero_shot_metrics`` where nothing is tied.

    Args:
        image_features: [images, dim].
        class_features: [classes, dim].
        labels: [images] in 0 to classes - 1.
        chunk: Images per block of the similarity matrix.

    Returns:
        [classes, classes] int64 on the CPU: rows are the true classes, columns the predicted ones.

    Raises:
        ValueError: If dims or counts differ, a label is out of range, or something is empty.
    """
    images = checked_features("image_features", image_features)
    classes = checked_features("class_features", class_features)
    check_same_dim("image_features", images, "class_features", classes)
    count = len(classes)
    labels = checked_labels("labels", labels, images, num_classes=count)
    images, classes = normalised(images), normalised(classes)
    predicted = torch.cat([similarity(rows, classes).argmax(dim=1) for rows in torch.split(images, chunk)])
    return torch.bincount(labels * count + predicted, minlength=count**2).reshape(count, count).cpu()
