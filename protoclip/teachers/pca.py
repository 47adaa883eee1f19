"""Principal components of more rows than fit into memory, to every digit those of all rows at once.

scikit-learn's ``IncrementalPCA`` drops the smaller components chunk by chunk, so that its result depends on the chunks;
the sums below do not, and at a teacher's width the covariance is small. Price: rows x dim^2, once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PCA:
    """A projection, centred and not whitened.

    Attributes:
        mean: float64 [dim].
        components: float64 [dims, dim], orthonormal rows by falling variance, signs as scikit-learn has them.
        explained_variance: share of the variance that the components keep.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    explained_variance: float

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project rows [n, dim] to [n, dims]; they are not normalised again."""
        projected: NDArray[np.float32] = ((rows - self.mean) @ self.components.T).astype(np.float32)
        return projected


def fit_pca(chunks: Iterable[NDArray[np.float32]], dim: int, dims: int) -> PCA:
    """Fit to chunks of rows.

    Args:
        chunks: [n, dim] each, of any n.
        dim: width of the rows.
        dims: components to keep.

    Raises:
        ValueError: more components than columns or rows.
    """
    from sklearn.utils.extmath import svd_flip  # noqa: PLC0415 - takes half a second

    count, total, gram = 0, np.zeros(dim), np.zeros((dim, dim))
    for chunk in chunks:
        rows = chunk.astype(np.float64)
        count += len(rows)
        total += rows.sum(0)
        gram += rows.T @ rows
    if dims > min(dim, count):
        raise ValueError(f"no {dims} components of {count} rows of width {dim}: ask for {min(dim, count)} or fewer")
    mean = total / count
    variances, vectors = np.linalg.eigh(gram / count - np.outer(mean, mean))
    components = svd_flip(None, vectors[:, ::-1].T[:dims], u_based_decision=False)[1]
    variances = variances.clip(min=0)
    explained = variances[::-1][:dims].sum() / variances.sum() if variances.any() else 1.0
    return PCA(mean, components, float(explained))
