"""A map of rows and components in a few axes, from nothing but the components' probabilities."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.base import _fit_context as fit_context  # type: ignore[attr-defined]
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mixcoder.estimators._validation import Number, as_tensor, like_input, require_finite, rows_of
from mixcoder.estimators.base import few_threads
from mixcoder.fitting.scan import scan_range
from mixcoder.ops.embedding import EmbeddingKernel, encode_embedded
from mixcoder.sources import TensorSource


class ParametricEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Rows and components as points v and w, such that near components are the probable ones.

    .. math::
        \max_{v, w} \sum_n \Bigl( \sum_k A_{nk} \log q_{nk} - \rho |v_n|^2 \Bigr) - \rho \sum_k |w_k|^2, \qquad
        q_{nk} \propto e^{-\beta |v_n - w_k|^2}

    with A the probabilities given. The codes v and the anchors w are improved in turn: the codes to their unique
    maximum by Newton's method, the anchors by L-BFGS, so that the objective never falls. Cost O(n k) a turn, and a new
    row gets its place without a new fit.

    Parameters
    ----------
    n_components : int, default=2
        Axes of the map.
    model : estimator with ``predict_proba``, optional
        A fitted mixture or classifier: X are then its rows. Without it X are log-probabilities of the components, of
        shape (n_samples, n_classes), up to a constant of each row.
    prior : float, default=0.01
        rho, which keeps codes and anchors finite, and fixes origin and scale.
    absorber, alpha, beta : float, default=0, 0, 1
        As in :class:`mixcoder.ops.embedding.EmbeddingKernel`.
    max_iter : int, default=100
    tol : float, default=1e-5
        Gain in nats per row below which to stop.

    Attributes
    ----------
    anchors_ : array, shape (n_classes, n_components)
        w.
    embedding_ : array, shape (n_samples, n_components)
        v of the rows fitted. Both are turned to the principal axes of the anchors.
    history_ : list of float
        The objective per row after each turn.
    n_iter_ : int
    converged_ : bool

    References
    ----------
    Iwata, Saito, Ueda, Stromsten, Griffiths & Tenenbaum, Parametric Embedding for Class Visualization (2004), which is
    the case of no absorber.

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder.estimators import ParametricEmbedding
    >>> probabilities = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    >>> map_ = ParametricEmbedding().fit(np.log(probabilities))
    >>> map_.embedding_.shape, map_.anchors_.shape
    ((3, 2), (3, 2))
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Number(Integral, 1, None, closed="left")],
        "model": [None, HasMethods("predict_proba")],
        "prior": [Number(Real, 0, None, closed="left")],
        "absorber": [Number(Real, 0, None, closed="left")],
        "alpha": [Number(Real, None, None, closed="neither")],
        "beta": [Number(Real, 0, None, closed="neither")],
        "max_iter": [Number(Integral, 1, None, closed="left")],
        "tol": [Number(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        model: Any = None,
        prior: float = 0.01,
        absorber: float = 0.0,
        alpha: float = 0.0,
        beta: float = 1.0,
        max_iter: int = 100,
        tol: float = 1e-5,
    ) -> None:
        self.n_components = n_components
        self.model = model
        self.prior = prior
        self.absorber = absorber
        self.alpha = alpha
        self.beta = beta
        self.max_iter = max_iter
        self.tol = tol

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Place the rows and the components.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Log-probabilities of the components, or rows of ``model``.
        y : ignored
        """
        with few_threads(X):
            return self._fit(X)

    def _fit(self, X: Any) -> Self:
        kernel = self._kernel()
        targets = self._targets(X, reset=True)
        anchors = _start(targets, int(self.n_components))
        codes = encode_embedded(targets, anchors, kernel).codes
        history = [_total(codes, anchors, targets, kernel)]
        converged = False
        for _ in range(int(self.max_iter)):
            anchors = _improved(codes, anchors, targets, kernel)
            codes = encode_embedded(targets, anchors, kernel, start=codes).codes
            history.append(_total(codes, anchors, targets, kernel))
            if history[-1] - history[-2] <= self.tol:
                converged = True
                break
        if not converged:
            warnings.warn(
                f"The map still gains more than tol={self.tol:g} nats per row after {self.max_iter} turns: raise "
                "max_iter or tol.",
                ConvergenceWarning,
                stacklevel=4,
            )
        anchors = anchors @ _principal_axes(anchors)
        self.anchors_ = like_input(anchors, X)
        self.embedding_ = like_input(encode_embedded(targets, anchors, kernel).codes, X)
        self.history_, self.n_iter_, self.converged_ = history, len(history) - 1, converged
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Place the rows and the components, and return the places of the rows, shape (n_samples, n_components)."""
        return self.fit(X, y, **fit_params).embedding_

    def transform(self, X: Any) -> Any:
        """Return the places of rows among the fitted anchors, shape (n_samples, n_components)."""
        check_is_fitted(self)
        with few_threads(X):
            targets = self._targets(X, reset=False)
            anchors = torch.as_tensor(self.anchors_, device=targets.device)
            return like_input(encode_embedded(targets, anchors, self._kernel()).codes, X)

    @property
    def _n_features_out(self) -> int:
        return int(self.anchors_.shape[1])

    def _kernel(self) -> EmbeddingKernel:
        kernel = EmbeddingKernel(self.absorber, self.alpha, self.beta, self.prior)
        if not kernel.confines:
            raise ValueError(
                "Expected prior > 0 or absorber > 0, but both are 0: then rows that are sure of their component have "
                "no finite place; keep a small prior."
            )
        return kernel

    def _targets(self, X: Any, *, reset: bool) -> Tensor:
        x = rows_of(self, X, reset=reset)
        source = TensorSource(x)
        require_finite(self, source, scan_range(source))
        if self.model is None:
            return x.double().softmax(dim=1)
        probabilities = as_tensor(self.model.predict_proba(X)).double()
        return probabilities / probabilities.sum(dim=1, keepdim=True)


def _start(targets: Tensor, e: int) -> Tensor:
    """Return the components in the principal axes of the targets, shape (k, e)."""
    centred = targets - targets.mean(dim=0)
    values, axes = torch.linalg.eigh(centred.T @ centred / len(targets))
    anchors = targets.new_zeros(targets.shape[1], e)
    leading = axes.flip(1)[:, :e] * values.flip(0)[:e].clamp_min(0).sqrt()
    anchors[:, : leading.shape[1]] = leading
    size = anchors.square().sum(dim=1).mean().sqrt()
    return anchors / size if float(size) > 1e-12 else anchors


def _total(codes: Tensor, anchors: Tensor, targets: Tensor, kernel: EmbeddingKernel) -> float:
    fitted = kernel.surrogate(codes, anchors, targets).sum()
    return float(fitted - kernel.prior * anchors.square().sum()) / len(targets)


def _improved(codes: Tensor, anchors: Tensor, targets: Tensor, kernel: EmbeddingKernel) -> Tensor:
    """Return anchors after a few steps of L-BFGS, or the same ones where they cannot be improved."""
    from scipy.optimize import minimize

    def loss(flat: Any) -> tuple[float, Any]:
        w = torch.from_numpy(flat).view_as(anchors).to(anchors.device)
        slope = kernel.anchor_gradient(codes, w, targets) - 2 * kernel.prior * w
        return -_total(codes, w, targets, kernel), -slope.flatten().numpy(force=True) / len(targets)

    found = minimize(
        loss, anchors.flatten().numpy(force=True), jac=True, method="L-BFGS-B", options={"maxiter": 20}
    )
    new = torch.from_numpy(found.x).view_as(anchors).to(anchors.device)
    better = _total(codes, new, targets, kernel) > _total(codes, anchors, targets, kernel)
    return new if better else anchors


def _principal_axes(anchors: Tensor) -> Tensor:
    """Return the turn, shape (e, e), to the axes along which the anchors spread most, the farthest one positive."""
    centred = anchors - anchors.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes.flip(1)
    turned = centred @ axes
    far = turned.abs().argmax(dim=0)
    signs = turned.gather(0, far[None])[0].sign()
    return axes * torch.where(signs == 0, 1.0, signs)
