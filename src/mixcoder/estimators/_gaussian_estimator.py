"""What the estimators of Gaussian mixtures share: how a fit begins, and covariances in the units of the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import StrOptions

from mixcoder.encoders import Posterior
from mixcoder.estimators._gaussian_parameters import covariances_of, precision_factors_of
from mixcoder.estimators._validation import Number
from mixcoder.estimators.mixture import DensityEstimator, code_start
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start, found_start, start_around, start_at_random, start_from_code
from mixcoder.fitting.kmeans import kmeans_labels
from mixcoder.fitting.seeding import draw_distinct, plus_plus_batch
from mixcoder.fitting.start import draw_sample

# What keeps a covariance invertible where an explicit ``reg_covar`` is zero: rounding, nothing more.
ROUNDING_FLOOR = 1e-13


class GaussianEstimator(DensityEstimator):
    """Base of the Gaussian mixtures with scikit-learn's parameters."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DensityEstimator._parameter_constraints,
        "reg_covar": [Number(Real, 0.0, math.inf, closed="left"), None],
        "init_params": [
            StrOptions({"auto", "kmeans", "k-means++", "random", "random_from_data"}),
            "array-like",
            callable,
        ],
    }

    covariance_type: str
    reg_covar: float | None
    init_params: Any

    def _start_by_init_params(self, problem: Problem) -> Start | Callable[[int], Start] | None:
        how, k = self.init_params, self.n_components
        if isinstance(how, str) and how in ("auto", "annealed"):
            return None
        generator = self._generator()
        if not isinstance(how, str):
            if not callable(how):
                return code_start(problem, how, k)
            random_state = self._random_numbers()
            rows = problem.source.take(torch.arange(problem.source.n_rows))
            shown = rows if self._from_torch else rows.numpy(force=True)
            return lambda attempt: code_start(problem, how(shown, k, random_state), k)
        if how == "kmeans":
            return lambda attempt: start_from_code(problem, kmeans_labels(problem, k, generator), k)

        def start(attempt: int) -> Start:
            del attempt
            sample = draw_sample(problem, k, problem.family.geometry, generator)
            if len(sample.rows) <= k:  # one component a row: there is nothing to choose
                return found_start(problem, k, Posterior(), generator)
            if how == "random":
                return start_at_random(problem, k, generator)
            if how == "k-means++":
                centres = plus_plus_batch(sample.view, sample.weights, k, 1, generator)[0]
                chosen = torch.cdist(centres, sample.view).argmin(1)
            else:
                chosen = draw_distinct(sample.weights, k, generator)
            return start_around(problem, sample.rows[chosen], Posterior())

        return start

    # Fitted attributes, in the units of the rows

    @property
    def means_(self) -> Any:
        """Means of the components, shape (n_components, n_features)."""
        model = self._fitted()
        return self._attribute(model.frame.undo(model.params.means))  # type: ignore[attr-defined]

    @property
    def covariances_(self) -> Any:
        """Covariances, in the shape of the covariance type, in squared units of the rows."""
        model = self._fitted()
        return self._attribute(covariances_of(self.covariance_type, model.params, model.frame))

    @property
    def precisions_cholesky_(self) -> Any:
        """Upper triangular U with U U' the precision; reciprocal standard deviations where diagonal."""
        model = self._fitted()
        return self._attribute(precision_factors_of(self.covariance_type, model.params, model.frame))

    @property
    def precisions_(self) -> Any:
        """Inverses of the covariances."""
        model = self._fitted()
        factors = precision_factors_of(self.covariance_type, model.params, model.frame)
        dense = self.covariance_type in ("full", "tied")
        return self._attribute(factors @ factors.mT if dense else factors.square())


__all__ = ["ROUNDING_FLOOR", "GaussianEstimator"]
