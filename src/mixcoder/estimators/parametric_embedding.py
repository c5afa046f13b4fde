"""A map of rows and components in a few axes, from nothing but the components' probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.base import _fit_context as fit_context  # type: ignore[attr-defined]
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mixcoder._user_warnings import warn_user
from mixcoder.estimators._callbacks import all_or_nothing
from mixcoder.estimators._embedding import KERNEL_CONSTRAINTS, EmbeddingMap, kernel_of
from mixcoder.estimators._probabilities import probabilities_of
from mixcoder.estimators._validation import Number, like_input, require_finite, rows_of
from mixcoder.estimators.base import few_threads
from mixcoder.fitting.anchors import AnchorFit, TargetsOf, first_anchors, fit_anchors, principal_axes
from mixcoder.fitting.scan import scan_range
from mixcoder.ops.embedding import CodeKernel, EmbeddedCodes, encode_embedded
from mixcoder.sources import Block, Source, TensorSource

# Rows that decide most of the map, where there are many more: most steps are taken on the fewest.
_FIRST_ROWS = (1000, 8000)

_BLOCK = 1 << 14

# Length of its gradient, in nats a unit of the map, at which a place is found.
_CODE_TOL = 1e-10

_NO_LOGARITHM = (
    "X are log-probabilities: of zero give the logarithm of a small one, np.log(np.maximum(p, 1e-300))."
)

# Numbers in the largest array of a block, which is (rows k e).
_BLOCK_NUMBERS = 1 << 18


class ParametricEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Rows and components as points v and w, such that near components are the probable ones.

    .. math::
        \max_{v, w} \sum_n \Bigl( \sum_k A_{nk} \log q_{nk} - \rho |v_n|^2 \Bigr) - \rho \sum_k |w_k|^2, \qquad
        q_{nk} \propto e^{-\beta |v_n - w_k|^2}

    with A the probabilities given. Every step finds the best codes v for the anchors w by Newton's method and then
    moves the anchors by a Newton step that knows how the codes will follow; the objective never falls. Of many rows a
    few thousand come first, so that all of them are needed for the last steps only. Such a step costs O(n (k e)^2); a
    new row gets its place without a new fit, in O(k e).

    Parameters
    ----------
    n_components : int, default=2
        Axes of the map.
    model : estimator with ``predict_proba``, optional
        A fitted mixture or classifier: X are then its rows. Without it X are log-probabilities of the components, of
        shape (n_samples, n_classes), up to a constant of each row. The model is used as it is, never fitted; but
        ``sklearn.base.clone``, as in cross-validation, makes it an unfitted copy, whose ``predict_proba`` then fails:
        wrap it in :class:`sklearn.frozen.FrozenEstimator`, which a clone leaves fitted.
    kernel : {"squared", "distance", "sphere"}, default="squared"
        Of squared distances as above, of distances, or of squared distances to codes on the unit sphere. The last two
        are not concave in the codes: they give a local maximum, and take more steps.
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
    n_newton_steps_ : array of int64, shape (n_samples,)
        How many steps found the place of each row, from nothing but its probabilities.
    history_ : list of float
        The objective per row after each step, over all rows.
    n_iter_ : int
        Steps over all rows.
    gradient_norm_ : float
        Length of the gradient in the anchors at the end, per row.
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

    The map of a fitted model, frozen so that a clone keeps its fit:

    >>> from sklearn.base import clone
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.frozen import FrozenEstimator
    >>> from mixcoder import GaussianMixture
    >>> X = load_iris().data
    >>> model = FrozenEstimator(GaussianMixture(3, random_state=0).fit(X))
    >>> clone(ParametricEmbedding(model=model)).fit(X).anchors_.shape
    (3, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Number(Integral, 1, None, closed="left")],
        "model": [None, HasMethods("predict_proba")],
        **KERNEL_CONSTRAINTS,
        "max_iter": [Number(Integral, 1, None, closed="left")],
        "tol": [Number(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        model: Any = None,
        kernel: str = "squared",
        prior: float = 0.01,
        absorber: float = 0.0,
        alpha: float = 0.0,
        beta: float = 1.0,
        max_iter: int = 100,
        tol: float = 1e-5,
    ) -> None:
        self.n_components = n_components
        self.model = model
        self.kernel = kernel
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

        Raises
        ------
        DataError
            If X is not finite, or the model's ``predict_proba`` gives no probabilities of its rows.
        """
        with all_or_nothing(self), few_threads(X):
            return self._fit(X)

    def _fit(self, X: Any) -> Self:
        kernel, source = self._kernel(), self._source(X, reset=True)
        anchors = _start(source, self._targets_of, int(self.n_components))
        found: AnchorFit | None = None
        for rows in _stages(source):
            found = fit_anchors(
                rows,
                self._targets_of,
                anchors,
                kernel,
                prior=float(self.prior) * rows.n_rows / source.n_rows,  # the same optimum, from fewer rows
                tol=float(self.tol),
                max_iter=int(self.max_iter),
                radius=None if found is None else found.radius,
            )
            anchors = found.anchors
        assert found is not None
        if not found.converged:
            warn_user(
                f"The map still gains more than tol={self.tol:g} nats per row after {self.max_iter} steps: raise "
                "max_iter or tol.",
                ConvergenceWarning,
            )
        anchors = anchors @ principal_axes(anchors)
        placed = self._placed(source, anchors, kernel)
        self.anchors_ = like_input(anchors, X)
        self.embedding_, self.n_newton_steps_ = like_input(placed.codes, X), like_input(placed.n_steps, X)
        self.history_, self.n_iter_, self.converged_ = found.history, len(found.history) - 1, found.converged
        self.gradient_norm_ = found.gradient_norm
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Place the rows and the components, and return the places of the rows, shape (n_samples, n_components)."""
        return self.fit(X, y, **fit_params).embedding_

    def transform(self, X: Any) -> Any:
        """Return the places of rows among the fitted anchors, shape (n_samples, n_components)."""
        check_is_fitted(self)
        with few_threads(X):
            source = self._source(X, reset=False)
            return like_input(self._placed(source, self._anchors(source), self._kernel()).codes, X)

    def embedding_map(self, X: Any) -> EmbeddingMap:
        """Return what a picture shows: places of rows and components, and the absorber's share of each row."""
        check_is_fitted(self)
        with few_threads(X):
            source, kernel = self._source(X, reset=False), self._kernel()
            anchors = self._anchors(source)
            placed = self._placed(source, anchors, kernel)
        absorbed, labels = placed.value.new_empty(source.n_rows), placed.n_steps.new_empty(source.n_rows)
        for rows in torch.arange(source.n_rows, device=source.device).split(_BLOCK):
            log_q, log_q_0 = kernel.log_code(placed.codes[rows], anchors)
            absorbed[rows], labels[rows] = log_q_0.exp(), log_q.argmax(dim=1)
        shown = (placed.codes, anchors, absorbed, labels, placed.exists)
        return EmbeddingMap(*(like_input(part, X) for part in shown))

    def save(self, path: Any, *, overwrite: bool = True) -> str:
        """Write the fitted estimator to one file and return the SHA-256 of its content.

        The file is replaced whole or not at all. Read it back with :func:`mixcoder.load`.
        """
        from mixcoder.estimators._persistence import save

        check_is_fitted(self)
        return save(self, path, overwrite=overwrite)

    @property
    def _n_features_out(self) -> int:
        return int(self.anchors_.shape[1])

    def _anchors(self, source: Source) -> Tensor:
        return torch.as_tensor(self.anchors_, dtype=torch.float64, device=source.device)

    def _kernel(self) -> CodeKernel:
        kernel = kernel_of(self)
        if self.prior == 0 and not self.absorber > 0:
            raise ValueError(
                "Expected prior > 0 or absorber > 0, but both are 0: then rows that are sure of their component have "
                "no finite place; keep a small prior."
            )
        return kernel

    def _source(self, X: Any, *, reset: bool) -> TensorSource:
        """Return what targets are made of: the rows given, or the probabilities that the model gives them."""
        x = rows_of(self, X, reset=reset)
        source = TensorSource(x)
        limits = scan_range(source)
        if self.model is None:
            require_finite(self, source, limits, _NO_LOGARITHM)
            if reset:
                _tell_of_probabilities(x[:_BLOCK])
            return source
        require_finite(self, source, limits)
        n_classes = None if reset else int(self.anchors_.shape[0])
        return TensorSource(probabilities_of(self.model, X, len(x), n_classes).to(x.device))

    @property
    def _targets_of(self) -> TargetsOf:
        return _softargmax if self.model is None else _normalised

    def _placed(self, source: Source, anchors: Tensor, kernel: CodeKernel) -> EmbeddedCodes:
        """Return the codes of all rows, the targets made block by block."""
        n, e, corners, targets_of = source.n_rows, anchors.shape[1], kernel.corners(anchors), self._targets_of
        codes, numbers = anchors.new_empty(n, e), anchors.new_empty(2, n)
        steps = torch.empty(n, dtype=torch.int64, device=anchors.device)
        exists = torch.empty(n, dtype=torch.bool, device=anchors.device)

        def place(block: Block) -> None:
            rows = slice(block.start, block.stop)
            found = encode_embedded(targets_of(block), anchors, kernel, tol=_CODE_TOL, corners=corners)
            codes[rows], steps[rows], exists[rows] = found.codes, found.n_steps, found.exists
            numbers[0, rows], numbers[1, rows] = found.value, found.gradient_norm

        source.map_rows(place, max(64, _BLOCK_NUMBERS // anchors.numel()))
        return EmbeddedCodes(codes, numbers[0], numbers[1], steps, exists)


def _softargmax(block: Block) -> Tensor:
    """Return the targets of log-probabilities."""
    return block.x.double().softmax(dim=1)


def _normalised(block: Block) -> Tensor:
    """Return the targets of probabilities."""
    probabilities = block.x.double().clamp_min(0)  # below zero by rounding alone
    return probabilities / probabilities.sum(dim=1, keepdim=True)


def _tell_of_probabilities(x: Tensor) -> None:
    """Warn where rows that should be log-probabilities are probabilities."""
    sums = x.double().sum(dim=1)
    if x.shape[1] > 1 and bool((x >= 0).all()) and bool(((sums - 1).abs() < 1e-5).all()):
        warn_user(
            "Every row of X is non-negative and sums to one, as probabilities do, but without a model X are taken as "
            "log-probabilities: give np.log(X).",
            UserWarning,
        )


def _start(source: TensorSource, targets_of: TargetsOf, e: int) -> Tensor:
    """Return the components in the principal axes of the targets of some rows, shape (k, e)."""
    some = next(_stages(source))
    return first_anchors(targets_of(Block(some.x, None, 0)), e)


def _stages(source: TensorSource) -> Iterator[TensorSource]:
    """Yield some rows, evenly spaced, where there are many more, then more of them, then all."""
    for n in _FIRST_ROWS:
        if source.n_rows > 4 * n:
            yield TensorSource(source.x[:: source.n_rows // n])
    yield source
