"""The scikit-learn contract, once: rows in, codes and rows out, whatever the mixture."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.autoencoder import MixtureAutoencoder, code_length
from mixcoder.errors import DegenerateComponentWarning, DegenerateFeatureWarning, OverfitWarning, PrecisionWarning
from mixcoder.estimators._callbacks import CallbackSupportMixin, IterationTask
from mixcoder.estimators._validation import (
    as_tensor,
    check_domain,
    like_input,
    require_finite,
    rows_of,
    weights_of,
)
from mixcoder.fitting.alternate import FitResult, Step
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import describe
from mixcoder.fitting.scan import Range, Scan, scan_range
from mixcoder.sources import TensorSource

# Beyond this many standard deviations from zero, float32 has fewer than two digits left for the data.
_FLOAT32_OFFSET = 1e5


class AutoencoderEstimator(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Base of the estimators: everything that a fitted :class:`MixtureAutoencoder` can be asked.

    A concrete estimator says how a fit begins and ends; ``model_`` is what it leaves behind.
    """

    model_: MixtureAutoencoder

    @property
    @abstractmethod
    def _n_fitted_components(self) -> int:
        """Number of components asked for."""

    # What a fitted model answers

    def encode(self, X: Any) -> Any:
        """Return the code of each row.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)

        Returns
        -------
        code : array
            Responsibilities, shape (n_samples, n_components), or, for a hard encoder, the component of
            each row, int64, shape (n_samples,).
        """
        code = self._fitted().encode(self._rows(X))
        return like_input(code.index if isinstance(code, HardCode) else code, X)

    def decode(self, code: Any) -> Any:
        r"""Return the expected row of each code, :math:`\sum_k u_{nk} E[x|k]`.

        Parameters
        ----------
        code : array-like, shape (n_samples, n_components) or (n_samples,)
            Points of the simplex, or component numbers.

        Returns
        -------
        rows : array, shape (n_samples, n_features)
        """
        model = self._fitted()
        rows = model.decode(self._code(code))
        return like_input(rows.to(self._dtype()), code)

    def reconstruct(self, X: Any) -> Any:
        """Return decode(encode(X)), shape (n_samples, n_features), without keeping the codes."""
        return like_input(self._fitted().reconstruct(self._rows(X)), X)

    def predict(self, X: Any) -> Any:
        """Return the most probable component of each row, shape (n_samples,)."""
        return like_input(self._fitted().assign(self._rows(X)), X)

    def inverse_transform(self, X: Any) -> Any:
        """Return the decoded rows of codes; the inverse of ``encode`` as far as there is one."""
        return self.decode(X)

    def rate(self, X: Any, *, flat: bool = False) -> float:
        r"""Return the mean length of the rows' codes, in bits.

        A hard code costs :math:`-\log_2 \pi_k` (an entropy coder); a soft one its divergence from the
        weights, what bits-back coding pays.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
        flat : bool
            Whether to count log2 K bits for every row instead, as for a codebook without entropy coder.
        """
        model = self._fitted()
        if flat:
            return math.log2(model.n_components)
        log_weights = self._coding_log_weights(model)
        x = self._rows(X)
        total = 0.0
        for at in range(0, x.shape[0], 1 << 14):
            total += float(code_length(model.encode(x[at : at + (1 << 14)]), log_weights).double().sum())
        return total / x.shape[0]

    def distortion(self, X: Any) -> float:
        """Return the mean squared error of the reconstructions, summed over features."""
        model, x = self._fitted(), self._rows(X)
        total = 0.0
        for at in range(0, x.shape[0], 1 << 14):
            block = x[at : at + (1 << 14)]
            total += float((block - model.reconstruct(block)).double().square().sum())
        return total / x.shape[0]

    def save(self, path: Any, *, overwrite: bool = True) -> str:
        """Write the fitted estimator to one file and return the SHA-256 of its content.

        The file is replaced whole or not at all. Read it back with :func:`mixcoder.load`.
        """
        from mixcoder.estimators._persistence import save

        check_is_fitted(self)
        return save(self, path, overwrite=overwrite)

    @property
    def _n_features_out(self) -> int:
        return self._fitted().n_components

    # Shared machinery

    def _fitted(self) -> MixtureAutoencoder:
        check_is_fitted(self, "model_")
        return self.model_

    def _dtype(self) -> torch.dtype:
        return getattr(torch, self._dtype_name)

    def _rows(self, X: Any) -> Tensor:
        check_is_fitted(self, "model_")
        x = rows_of(self, X, reset=False)
        require_finite(self, x, scan_range(TensorSource(x)))
        check_domain(self.model_.family.check_rows, x)
        if x.device != self.model_.device:
            self.model_ = self.model_.to(x.device)
        return x

    def _code(self, code: Any) -> Code:
        model = self._fitted()
        if isinstance(code, Tensor):
            values = code
        else:
            array = np.asarray(code)
            if array.dtype.kind not in "biuf":
                raise TypeError(f"code must be numbers, got dtype {array.dtype}.")
            values = as_tensor(array)
        k = model.n_components
        if values.ndim == 1:
            index = values.to(torch.int64)
            if values.is_floating_point() and not bool((index == values).all()):
                raise ValueError("A one-dimensional code holds component numbers; got fractions.")
            if len(index) and (int(index.min()) < 0 or int(index.max()) >= k):
                raise ValueError(
                    f"Component numbers must be in 0..{k - 1}, got {int(index.min())}..{int(index.max())}."
                )
            return HardCode(index.to(model.device), k)
        if values.ndim != 2 or values.shape[1] != k:
            raise ValueError(
                f"code has shape {tuple(values.shape)}, expected (n_samples, {k}) responsibilities or "
                "(n_samples,) component numbers."
            )
        return values.to(device=model.device, dtype=torch.float64)

    def _coding_log_weights(self, model: MixtureAutoencoder) -> Tensor:
        """Return the log-probabilities that an entropy coder of the codes would use."""
        return model.log_weights

    def _source(self, X: Any, sample_weight: Any, *, reset: bool = True, min_rows: int = 2) -> TensorSource:
        x = rows_of(self, X, reset=reset, min_rows=min_rows)
        self._dtype_name = str(x.dtype).removeprefix("torch.")
        self._from_torch = isinstance(X, Tensor)
        return TensorSource(x, weights_of(sample_weight, x))

    def _checked_range(self, source: TensorSource, family: Any) -> Range:
        limits = scan_range(source)
        require_finite(self, source.x, limits)
        check_domain(family.check_rows, source.x)
        return limits

    def _generator(self) -> torch.Generator:
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)  # type: ignore[attr-defined]
        return torch.Generator().manual_seed(int(seed))

    def _attribute(self, value: Tensor) -> Any:
        """Return a fitted quantity in the dtype and kind of the training rows."""
        value = value.to(self._dtype())
        return value if self._from_torch else value.numpy(force=True)

    def _keep(self, result: FitResult) -> None:
        """Set the attributes that every fit leaves."""
        self.model_ = result.model
        self.converged_ = result.converged
        self.stop_reason_ = result.reason
        self.n_iter_ = result.n_iter
        self.history_ = result.history.as_dict()

    def _tell(self, result: FitResult, problem: Problem, seen: Scan, *, n_parameters: int) -> None:
        """Warn of what the user should know about the fit."""
        name = type(self).__name__
        constant = torch.nonzero(seen.constant)[:, 0].tolist()
        if constant and problem.source.n_rows > 1:
            labels = getattr(self, "feature_names_in_", None)
            shown = constant if labels is None else [str(labels[i]) for i in constant]
            warnings.warn(
                f"Columns {shown} are constant: they tell no component from another.",
                DegenerateFeatureWarning,
                stacklevel=4,
            )
        if problem.source.dtype == torch.float32:
            far = seen.mean.abs() > _FLOAT32_OFFSET * seen.std
            far &= ~seen.constant
            if bool(far.any()):
                warnings.warn(
                    f"Columns {torch.nonzero(far)[:, 0].tolist()} lie more than {_FLOAT32_OFFSET:.0e} standard "
                    "deviations from zero: float32 has no digits left for them. Subtract an offset in float64.",
                    PrecisionWarning,
                    stacklevel=4,
                )
        if result.refilled:
            warnings.warn(
                f"Components {list(result.refilled)} lost their rows during the fit and were given those that "
                f"the others explained worst; {name} may do with fewer components.",
                DegenerateComponentWarning,
                stacklevel=4,
            )
        collapsed = describe(result.model, problem.variances)
        if collapsed:
            warnings.warn(
                f"Components {collapsed} collapsed onto the variance floor in some direction: they hold few or "
                "nearly identical rows. Fewer components, a simpler covariance or a larger floor avoid it.",
                DegenerateComponentWarning,
                stacklevel=4,
            )
        if n_parameters > problem.source.n_rows * problem.source.n_features:
            warnings.warn(
                f"{name} has {n_parameters} parameters for {problem.source.n_rows} rows of "
                f"{problem.source.n_features} features: it repeats the data rather than describing it.",
                OverfitWarning,
                stacklevel=4,
            )
        if not result.converged:
            warnings.warn(
                f"The fit did not converge: {result.reason}. Raise max_iter or tol, or check the data.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _on_step(self, task: IterationTask, problem: Problem) -> Any:
        """Return the function that tells callbacks of each step."""

        def on_step(attempt: int, step: Step) -> bool:
            def fitted() -> Self:
                from sklearn.base import clone

                copy = clone(self)
                copy.__dict__.update(
                    {name: value for name, value in vars(self).items() if name not in vars(copy)}
                )
                copy.model_ = problem.model(step.following, step.log_weights, step.encoder)
                return copy

            return task(attempt, fitted)

        return on_step

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.allow_nan = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
