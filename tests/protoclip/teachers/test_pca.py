"""Streaming PCA against scikit-learn's on all rows at once."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from protoclip.teachers.pca import fit_pca


def unit_rows(count: int, dim: int) -> NDArray[np.float32]:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(count, dim)) * np.linspace(3, 0.5, dim) + 1
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize("chunk", [7, 100, 1000])
def test_projection_is_that_of_all_rows_at_once(chunk: int) -> None:
    rows = unit_rows(300, 12)
    ours = fit_pca((rows[i : i + chunk] for i in range(0, 300, chunk)), 12, 5)
    theirs = PCA(5, svd_solver="full").fit(rows.astype(np.float64))
    np.testing.assert_allclose(ours(rows), theirs.transform(rows.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_ratio_.sum(), atol=1e-9)
    assert ours(rows).dtype == np.float32


def test_output_is_neither_whitened_nor_normalised_again() -> None:
    rows = unit_rows(300, 12)
    projected = fit_pca([rows], 12, 12)(rows)
    centred = rows - rows.mean(0)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), np.linalg.norm(centred, axis=1), atol=1e-5)


def test_more_components_than_there_can_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^no 13 components of 300 rows of width 12: ask for 12 or fewer$"):
        fit_pca([unit_rows(300, 12)], 12, 13)
    with pytest.raises(ValueError, match=r"ask for 4 or fewer$"):
        fit_pca([unit_rows(4, 12)], 12, 5)


def test_equal_rows_have_no_variance_to_lose() -> None:
    pca = fit_pca([np.ones((5, 3), np.float32)], 3, 2)
    assert pca.explained_variance == 1.0
    np.testing.assert_allclose(pca(np.ones((5, 3), np.float32)), 0, atol=1e-6)
