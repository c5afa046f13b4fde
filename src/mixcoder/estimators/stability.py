"""Whether the clusters of a fit are found again in other samples of the same rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from mixcoder.errors import DataError, FitError
from mixcoder.estimators._validation import as_tensor
from mixcoder.estimators.base import AutoencoderEstimator
from mixcoder.selection import Stability, adjusted_rand, jaccard
from mixcoder.sources import Source


def stability(
    estimator: Any, X: Any, *, n_bootstraps: int = 50, random_state: Any = None, n_jobs: int | None = None
) -> Stability:
    """Fit an estimator to bootstrap samples of the rows and compare the clusters with those that it has.

    Each sample draws as many rows as there are, with replacement; the estimator is fitted to it (a row drawn twice has
    twice the weight), and its clusters are compared with those of the fit on the rows drawn, each counted once.

    Parameters
    ----------
    estimator : fitted estimator of mixcoder
        It is left as it is.
    X : array-like, shape (n_samples, n_features)
        The rows that it was fitted to.
    n_bootstraps : int, default=50
    random_state : int, RandomState or None
    n_jobs : int, optional
        Fits at a time, in processes. The result does not depend on it.

    Returns
    -------
    Stability
        With ``rand``, ``jaccard``, ``mean_jaccard`` and ``verdicts``. Fits that fail are told in ``failures``.

    Raises
    ------
    FitError
        If all fits fail.

    References
    ----------
    Hennig (2007), "Cluster-wise assessment of cluster stability", section 3: the bootstrap without multiple points.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture, stability
    >>> X = load_iris().data
    >>> stability(GaussianMixture(2, random_state=0).fit(X), X, n_bootstraps=5, random_state=0).verdicts
    ['stable', 'stable']
    """
    if not isinstance(estimator, AutoencoderEstimator):
        raise TypeError(f"stability takes a fitted estimator of mixcoder, got {type(estimator).__name__}.")
    if isinstance(X, Source):
        raise DataError(
            "Bootstrap samples are weights of rows in memory, but these are in files: take a part of them."
        )
    if n_bootstraps < 1:
        raise ValueError(f"n_bootstraps must be at least 1, got {n_bootstraps}.")
    labels = as_tensor(estimator.predict(X)).long().cpu()
    random_state = check_random_state(random_state)
    seeds = random_state.randint(np.iinfo(np.int32).max, size=n_bootstraps)
    fixed = "n_clusters" if hasattr(estimator, "n_clusters") else "n_components"
    blank: Any = clone(estimator)
    blank.set_params(**{fixed: estimator.model_.n_components})  # also where the number was found
    found: list[tuple[float, Tensor] | str] = Parallel(n_jobs=n_jobs)(
        delayed(_again)(blank, X, labels, estimator.model_.n_components, int(seed)) for seed in seeds
    )
    kept = [entry for entry in found if not isinstance(entry, str)]
    failures = tuple(entry for entry in found if isinstance(entry, str))
    if not kept:
        raise FitError(f"All {n_bootstraps} fits failed, the first with {failures[0]}")
    return Stability(
        torch.tensor([rand for rand, _ in kept], dtype=torch.float64),
        torch.stack([similar for _, similar in kept]),
        failures,
    )


def _again(blank: Any, X: Any, labels: Tensor, k: int, seed: int) -> tuple[float, Tensor] | str:
    """Return adjusted Rand index and similarities on one sample, or why there are none."""
    n_rows = len(labels)
    drawn = np.random.default_rng(seed).integers(n_rows, size=n_rows)
    counts = np.bincount(drawn, minlength=n_rows).astype(np.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # what there is to say of the fit was said when it was made
            model = clone(blank).set_params(random_state=seed).fit(X, sample_weight=counts)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    there = torch.from_numpy(counts > 0)
    ours, theirs = labels[there], as_tensor(model.predict(X)).long().cpu()[there]
    similar = torch.full((k,), torch.nan, dtype=torch.float64)
    found = jaccard(ours, theirs)
    similar[: len(found)] = found
    return adjusted_rand(ours, theirs), similar


__all__ = ["stability"]
