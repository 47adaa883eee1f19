"""Linear probe: L-BFGS logistic regression on frozen features (CLIP, appendix A.3), by scikit-learn."""

import logging
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from protoclip.evaluation.checks import checked_splits
from protoclip.evaluation.ranking import normalised
from protoclip.evaluation.task import Sets, Task
from protoclip.ranges import PositiveInt, Share

Array = NDArray[Any]
SWEEP_GRID = np.logspace(-6, 6, 97)
"""CLIP's 97 values, eight per decade; the strength of the penalty is 1 / C, so the range is that of lambda as well."""
ONE_THREAD = 10**9
"""Features x samples x classes below which a fit runs on one thread."""
_FIXED = "give a fixed C, such as C=0.316"
_COARSE_STEP = 16  # two decades: 1e-6, 1e-4, ..., 1e6

_log = logging.getLogger(__name__)


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    C: float | Literal["sweep"] = "sweep",  # noqa: N803, scikit-learn's name
    max_iter: int = 1000,
    seed: int = 0,
    validation_fraction: float = 0.2,
    normalize: bool = False,
    standardize: bool = False,
) -> dict[str, float]:
    """Test accuracy of a logistic regression trained on features as they are.

    The sweep is CLIP's: 1e-6, 1e-4, ..., 1e6, then the interval round the best is halved down to eight steps per decade
    (15 fits). It is judged on a stratified split of the training samples alone; equal scores go to the smaller C. The
    classifier that is tested is then fitted on all training samples. ``C=0.316`` is ProtoCLIP's preset.

    Args:
        train_features: [train, dim] un-normalised embeddings; float32 is fitted in float32.
        train_labels: [train], at least two classes.
        test_features: [test, dim].
        test_labels: [test]; a class that is not in the training labels counts as wrong.
        C: Inverse strength of the L2 penalty, or ``"sweep"``.
        max_iter: L-BFGS iterations per fit; a final fit that uses them up is logged, as information.
        seed: Draws the validation split.
        validation_fraction: Share of the training samples that judges the sweep.
        normalize: L2-normalise each feature first.
        standardize: Give each dimension mean 0 and variance 1 over the samples of the fit.

    Returns:
        ``top1`` in percent and the ``C`` used.

    Raises:
        ValueError: If dims or counts differ, there is one class only, C is not positive, or a class is too small to
            split.
    """
    train, train_labels, test, test_labels = checked_splits(train_features, train_labels, test_features, test_labels)
    x_train, x_test = (_array(normalised(x) if normalize else x) for x in (train, test))
    y_train, y_test = _array(train_labels), _array(test_labels)
    if len(np.unique(y_train)) < 2:
        raise ValueError("train_labels hold one class: a linear probe needs at least two classes")
    if isinstance(C := _checked(C), str):  # noqa: N806
        C = _sweep(x_train, y_train, max_iter, seed, validation_fraction, standardize)  # noqa: N806
    probe = _fit(x_train, y_train, C, max_iter, standardize)
    if (iterations := int(probe[-1].n_iter_.max())) >= max_iter:
        _log.info("linear_probe: C=%g has not converged after %d iterations; raise max_iter", C, iterations)
    return {"top1": 100 * float(np.mean(probe.predict(x_test) == y_test)), "C": float(C)}


def _checked(inverse_penalty: float | Literal["sweep"]) -> float | Literal["sweep"]:
    if inverse_penalty != "sweep" and (isinstance(inverse_penalty, str) or inverse_penalty <= 0):
        raise ValueError(f"C must be a positive number or 'sweep', got {inverse_penalty!r}")
    return inverse_penalty


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array


def _fit(x: Array, y: Array, inverse_penalty: float, max_iter: int, standardize: bool) -> Any:
    """A pipeline of scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - the library takes half a second
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    probe = LogisticRegression(C=inverse_penalty, max_iter=max_iter, solver="lbfgs")
    pipeline = make_pipeline(StandardScaler(), probe) if standardize else make_pipeline(probe)
    # L-BFGS on a small problem is many tiny products, on which BLAS threads wait for each other: 3.5 times slower.
    threads = 1 if x.size * len(np.unique(y)) < ONE_THREAD else None
    with warnings.catch_warnings(), threadpool_limits(threads, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the large values of a sweep seldom converge, nor need to
        warnings.filterwarnings("ignore", "The number of unique classes")  # of one or two shots, or of many classes
        return pipeline.fit(x, y)


def _sweep(x: Array, y: Array, max_iter: int, seed: int, validation_fraction: float, standardize: bool) -> float:
    """CLIP's binary search over ``SWEEP_GRID``: the C with the best accuracy on a validation split."""
    from sklearn.model_selection import train_test_split  # noqa: PLC0415 - takes half a second

    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
    classes, counts = np.unique(y, return_counts=True)
    held_out = int(np.ceil(validation_fraction * len(y)))
    if counts.min() < 2:
        alone = classes[counts.argmin()]
        raise ValueError(f"class {alone} has one training sample, too few for a validation split: {_FIXED}")
    if min(held_out, len(y) - held_out) < len(classes):
        raise ValueError(
            f"{held_out} of {len(y)} training samples for validation leave out one of {len(classes)} classes: {_FIXED}"
        )
    x_fit, x_val, y_fit, y_val = train_test_split(x, y, test_size=held_out, stratify=y, random_state=seed)
    scores: dict[int, float] = {}

    def best(candidates: range) -> int:
        for index in candidates:
            if 0 <= index < len(SWEEP_GRID) and index not in scores:
                probe = _fit(x_fit, y_fit, SWEEP_GRID[index], max_iter, standardize)
                scores[index] = float(np.mean(probe.predict(x_val) == y_val))
        return max(scores, key=lambda index: (scores[index], -index))

    peak, step = best(range(0, len(SWEEP_GRID), _COARSE_STEP)), _COARSE_STEP
    while step > 1:
        step //= 2
        peak = best(range(peak - step, peak + step + 1, step))
    return float(SWEEP_GRID[peak])


class LinearProbe(Task):
    """Logistic regression on the raw embedding; its options are those of ``linear_probe``.

    Args:
        pictures: a labelled set.
        train: the labelled set that is fitted on.
        C: inverse strength of the penalty, or ``sweep``.
        max_iter: iterations per fit.
        validation_fraction: share of the training samples that judges the sweep.
        normalize: L2-normalise each embedding.
        standardize: give each dimension mean 0 and variance 1.
        seed: draws the validation split.
    """

    def __init__(
        self,
        pictures: str,
        train: str,
        C: float | Literal["sweep"] = "sweep",  # noqa: N803, scikit-learn's name
        max_iter: PositiveInt = 1000,
        validation_fraction: Share = 0.2,
        normalize: bool = False,
        standardize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(pictures, train)
        self.options: dict[str, Any] = {
            "C": _checked(C),
            "max_iter": max_iter,
            "validation_fraction": validation_fraction,
            "normalize": normalize,
            "standardize": standardize,
            "seed": seed,
        }

    def __call__(self, sets: Sets) -> dict[str, float]:  # noqa: D102
        return linear_probe(*self.splits(sets, "embedding"), **self.options)
