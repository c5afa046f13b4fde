"""A mixture whose codes are points of a map: family and embedding fitted together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import torch
from sklearn.base import DensityMixin
from sklearn.base import _fit_context as fit_context  # type: ignore[attr-defined]
from torch import Tensor

from mixcoder._user_warnings import warn_user
from mixcoder.autoencoder import MixtureAutoencoder, code_length
from mixcoder.components import Family
from mixcoder.encoders import Posterior
from mixcoder.errors import DataError, MissingCodeWarning
from mixcoder.estimators._callbacks import all_or_nothing
from mixcoder.estimators._embedding import KERNEL_CONSTRAINTS, EmbeddingMap, kernel_of
from mixcoder.estimators._validation import Number, like_input, numbers_of
from mixcoder.estimators.base import AutoencoderEstimator, few_threads, on_device
from mixcoder.estimators.mixture import nameable_families, not_a_name
from mixcoder.fitting.alternate import FitResult, History
from mixcoder.fitting.anchors import principal_axes
from mixcoder.fitting.embedded import JointProblem
from mixcoder.fitting.fit import found_start, prepare
from mixcoder.ops.embedding import CodeKernel, EmbeddedCodes, encode_exact
from mixcoder.sources import Block, Source, TensorSource

_BLOCK_NUMBERS = 1 << 18

_NAMED_ROWS = 5

# Distance of first anchors, in widths of the kernel, below which the gain of a step is lost in any usual tol.
_LEAST_APART = 1e-2


class EmbeddedMixture(DensityMixin, AutoencoderEstimator):
    r"""A mixture whose codes are points v of R^E, among anchors w of the components.

    .. math::
        \max_{m, v, w} \sum_n \Bigl( \log \sum_k q_k(v_n)\, p(x_n | k, m) - \rho |v_n|^2 \Bigr) - \rho \sum_k |w_k|^2,
        \qquad q_k(v) = \frac{e^{-\beta |v - w_k|^2}}{\lambda e^{\alpha |v|^2} + \sum_j e^{-\beta |v - w_j|^2}}

    Components, codes and anchors are improved in turn and the objective never falls. It wants of each row the best
    component alone, as far as absorber and prior allow: rows that one component explains share one place, rows between
    components lie between their anchors. :class:`ParametricEmbedding` instead copies the posteriors of a fitted model.

    Parameters
    ----------
    family : str or Family, default="gaussian_full"
        What a component generates, as in :class:`mixcoder.Mixture`.
    n_components : int, default=3
        Components, K.
    n_axes : int, default=2
        Axes of a code, E.
    kernel : {"squared", "distance", "sphere"}, default="squared"
        Of squared distances as above, of distances, or of squared distances to codes on the unit sphere.
    prior : float, default=0.01
        rho, which keeps codes and anchors finite; on the sphere that of the anchors alone.
    absorber, alpha, beta : float, default=0, 0, 1
        lambda, alpha and beta. Without prior and absorber the code of a row may not exist: see ``code_exists_``.
    anchors_init : array-like, shape (n_components, n_axes), optional
        First anchors, instead of those of the map that copies the posteriors of the first components. No two may
        coincide: there the objective hardly tells their components apart, and a fit ends where it began.
    tol : float, default=1e-3
        Gain in nats per row below which to stop.
    max_iter : int, default=100
        Largest number of passes over the rows.
    random_state : int, RandomState or None

    Attributes
    ----------
    model_ : MixtureAutoencoder
        The components, weighted by their mean responsibility: the mixture whose density ``score_samples`` returns.
    anchors_ : array, shape (n_components, n_axes)
        w, turned to its principal axes.
    embedding_ : array, shape (n_samples, n_axes)
        v of the rows fitted.
    code_exists_ : array of bool, shape (n_samples,)
        False: the objective of the row still rises at infinity, because the moment of its targets lies outside the
        relative interior of the hull of the anchors (push-away). A MissingCodeWarning names such rows.
    absorber_share_ : array, shape (n_samples,)
        q_0 of the rows fitted.
    history_ : dict of lists
        "bound": the objective per row after each pass.
    lower_bound_ : float
        The last of them.
    n_iter_, converged_, stop_reason_
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import EmbeddedMixture
    >>> X = load_iris().data
    >>> model = EmbeddedMixture(n_components=3, random_state=0).fit(X)
    >>> v = model.encode(X)
    >>> v.shape, model.decode(v).shape
    ((150, 2), (150, 4))
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "family": [str, Family],
        "n_components": [Number(Integral, 1, None, closed="left")],
        "n_axes": [Number(Integral, 1, None, closed="left")],
        **KERNEL_CONSTRAINTS,
        "anchors_init": [None, "array-like"],
        "tol": [Number(Real, 0.0, None, closed="left")],
        "max_iter": [Number(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        family: str | Family[Any, Any] = "gaussian_full",
        n_components: int = 3,
        n_axes: int = 2,
        *,
        kernel: str = "squared",
        prior: float = 0.01,
        absorber: float = 0.0,
        alpha: float = 0.0,
        beta: float = 1.0,
        anchors_init: Any = None,
        tol: float = 1e-3,
        max_iter: int = 100,
        random_state: Any = None,
    ) -> None:
        self.family = family
        self.n_components = n_components
        self.n_axes = n_axes
        self.kernel = kernel
        self.prior = prior
        self.absorber = absorber
        self.alpha = alpha
        self.beta = beta
        self.anchors_init = anchors_init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    # Fitting

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit components, anchors and codes.

        Parameters
        ----------
        X : array-like or Tensor, shape (n_samples, n_features), or Source
        y : ignored
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative row weights: a weight of two is a row twice. Their scale counts against the prior of the
            anchors.
        """
        del y
        with all_or_nothing(self), few_threads(X):
            self._fit(X, sample_weight)
        return self

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return the codes of the rows, shape (n_samples, n_axes)."""
        return self.fit(X, y, sample_weight=sample_weight).embedding_

    def _fit(self, X: Any, sample_weight: Any) -> None:
        kernel = self._kernel()
        source, unit = self._source(X, sample_weight)
        if source.n_rows < self.n_components:
            raise DataError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {source.n_rows}. Give more rows or ask for fewer components."
            )
        family = self._family()
        limits = self._checked_range(source, family)
        problem, seen = prepare(source, family, limits)
        self._require_representable(problem, source.dtype)
        params, log_weights = found_start(problem, self.n_components, Posterior(), self._generator())
        joint = JointProblem(problem, kernel, float(self.prior) / unit, unit)
        anchors = self._first_anchors(source)
        if anchors is None:
            anchors = joint.start(params, log_weights, int(self.n_axes))
        kernel.require_identified(anchors)
        if self.anchors_init is not None:
            _require_apart(anchors, float(self.beta))
        found = joint.fit(params, anchors, tol=float(self.tol), max_iter=int(self.max_iter))
        history = History(bound=found.history)
        result = FitResult(
            model=found.model,
            params=found.model.params,
            bound=found.history[-1],
            converged=found.converged,
            reason=found.reason,
            n_iter=len(found.history),
            history=history,
        )
        self._keep(result)
        self.lower_bound_ = result.bound
        self._anchors = found.anchors @ principal_axes(found.anchors)
        placed, absorbed = self._placed(self.model_, source)
        self.embedding_ = self._attribute(placed.codes)
        self.absorber_share_ = self._attribute(absorbed)
        self.code_exists_ = placed.exists if self._from_torch else placed.exists.numpy(force=True)
        n_parameters = self.model_.family.n_parameters(self.model_.params) + self._anchors.numel()
        self._tell(result, problem, seen, n_parameters=n_parameters)
        self._tell_of_missing(placed.exists)

    def _first_anchors(self, source: Source) -> Tensor | None:
        if self.anchors_init is None:
            return None
        anchors = numbers_of(self.anchors_init, "anchors_init").to(source.device)
        shape = (int(self.n_components), int(self.n_axes))
        if anchors.shape != shape:
            raise ValueError(f"anchors_init has shape {tuple(anchors.shape)}, expected {shape}.")
        return anchors

    def _tell_of_missing(self, exists: Tensor) -> None:
        missing = torch.nonzero(~exists)[:, 0].tolist()
        if not missing:
            return
        named = ", ".join(str(row) for row in missing[:_NAMED_ROWS]) + (
            ", ..." if len(missing) > _NAMED_ROWS else ""
        )
        warn_user(
            f"{len(missing)} of {len(exists)} rows have no code (rows {named}; see code_exists_): the moment of their "
            "targets lies outside the relative interior of the hull of the anchors, so that their objective still "
            "rises at infinity. Set absorber > 0 or prior > 0.",
            MissingCodeWarning,
        )

    # What a fitted model answers

    def encode(self, X: Any) -> Any:
        """Return the code v of each row, shape (n_samples, n_axes): a maximum of its objective."""
        model, x = self._asked(X)
        return like_input(self._placed(model, TensorSource(x))[0].codes.to(x.dtype), X)

    def transform(self, X: Any) -> Any:
        """Return the code v of each row, shape (n_samples, n_axes)."""
        return self.encode(X)

    def decode(self, code: Any) -> Any:
        r"""Return the expected row of each code, :math:`\sum_k q_k(v) E[x|k] \,/\, \sum_k q_k(v)`.

        The absorber's share decodes to nothing, and is left out.

        Parameters
        ----------
        code : array-like, shape (n_samples, n_axes)

        Returns
        -------
        rows : array, shape (n_samples, n_features)
        """
        model, values = self._fitted(), numbers_of(code, "code")
        e = self._anchors.shape[1]
        if values.ndim != 2 or values.shape[1] != e:
            raise DataError(
                f"code has shape {tuple(values.shape)}, expected (n_samples, {e}): points of the map."
            )
        shares = self._shares(values)
        return like_input(on_device(model, values.device).decode(shares).to(self._dtype()), code)

    def reconstruct(self, X: Any) -> Any:
        """Return decode(encode(X)), shape (n_samples, n_features)."""
        model, x = self._asked(X)
        codes = self._placed(model, TensorSource(x))[0].codes
        return like_input(model.decode(self._shares(codes)).to(x.dtype), X)

    def predict(self, X: Any) -> Any:
        """Return the component that explains each row best at its code, shape (n_samples,)."""
        model, source = self._asked_rows(X)
        labels = torch.empty(source.n_rows, dtype=torch.int64, device=source.device)

        def write(rows: slice, found: EmbeddedCodes, h: Tensor) -> None:
            labels[rows] = (self._kernel().log_code(found.codes, self._anchors_on(h))[0] + h).argmax(dim=1)

        self._each(model, source, write)
        return like_input(labels, X)

    def predict_proba(self, X: Any) -> Any:
        """Return the responsibilities at the code of each row, r = q p / sum q p, shape (n_samples, n_components)."""
        model, x = self._asked(X)
        shares = x.new_empty(len(x), model.n_components)

        def write(rows: slice, found: EmbeddedCodes, h: Tensor) -> None:
            shares[rows] = self._kernel().responsibilities(found.codes, self._anchors_on(h), h).to(x.dtype)

        self._each(model, TensorSource(x), write)
        return like_input(shares, X)

    def score_samples(self, X: Any) -> Any:
        r"""Return the log-density :math:`\log \sum_k \pi_k p(x|k)` of each row in nats, shape (n_samples,).

        pi is the mean responsibility of the rows fitted. It is a density, comparable with that of any mixture; the
        objective of a row, in which the best v stands in for pi, is not: see :meth:`objective`.
        """
        model, source = self._asked_rows(X)
        return like_input(model.log_prob(source), X)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density of the rows, in nats."""
        del y
        model, source = self._asked_rows(X)
        return float(model.log_prob(source).double().mean())

    def objective(self, X: Any) -> Any:
        r"""Return :math:`\max_v L_n(v)` of each row in nats, shape (n_samples,): what ``fit`` raises."""
        model, x = self._asked(X)
        return like_input(self._placed(model, TensorSource(x))[0].value.to(x.dtype), X)

    def embedding_map(self, X: Any) -> EmbeddingMap:
        """Return what a picture shows: places of rows and components, and the absorber's share of each row."""
        model, x = self._asked(X)
        placed, absorbed = self._placed(model, TensorSource(x))
        labels = self._shares(placed.codes).argmax(dim=1)
        shown = (placed.codes.to(x.dtype), self._anchors_on(x), absorbed.to(x.dtype), labels, placed.exists)
        return EmbeddingMap(*(like_input(part, X) for part in shown))

    def rate(self, X: Any, *, flat: bool = False) -> float:
        r"""Return the mean length in bits of what the codes tell of the components, :math:`KL(q(v) \| \pi)`.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
        flat : bool
            Whether to count log2 K bits for every row instead.
        """
        model, source = self._asked_rows(X)
        if flat:
            return math.log2(model.n_components)
        floor = torch.finfo(torch.float64).tiny
        log_weights = torch.log_softmax(model.log_weights.clamp_min(math.log(floor)), dim=0)
        total = 0.0

        def add(rows: slice, found: EmbeddedCodes, h: Tensor) -> None:
            nonlocal total
            total += float(code_length(self._shares(found.codes), log_weights.to(h)).sum())

        self._each(model, source, add, in_order=True)
        return total / source.n_rows

    def distortion(self, X: Any) -> float:
        """Return the mean squared error of the reconstructions, summed over features."""
        model, source = self._asked_rows(X)
        total = 0.0
        for block in source.blocks(1 << 14):
            codes = self._placed(model, TensorSource(block.x))[0].codes
            total += float((block.x.double() - model.decode(self._shares(codes))).square().sum())
        return total / source.n_rows

    @property
    def anchors_(self) -> Any:
        """Places of the components, shape (n_components, n_axes)."""
        self._fitted()
        return self._attribute(self._anchors)

    @property
    def weights_(self) -> Any:
        """Mean responsibilities of the components, shape (n_components,), summing to one."""
        return self._attribute(self._fitted().log_weights.exp())

    # Parts

    @property
    def _n_features_out(self) -> int:
        self._fitted()
        return int(self._anchors.shape[1])

    @property
    def _n_fitted_components(self) -> int:
        return int(self.n_components)

    def _family(self) -> Family[Any, Any]:
        if isinstance(self.family, Family):
            return self.family
        known = nameable_families()
        if self.family not in known:
            raise ValueError(not_a_name(self.family))
        return known[self.family]()

    def _kernel(self) -> CodeKernel:
        kernel = kernel_of(self)
        k, e = int(self.n_components), int(self.n_axes)
        if self.kernel == "squared" and not kernel.confines and e > k - 1:
            raise ValueError(
                f"Expected n_axes <= n_components - 1 = {k - 1} without absorber and prior, but it is {e}: the anchors "
                "span no more axes, and codes are free along the others. Set absorber > 0 or prior > 0, or use fewer "
                "axes."
            )
        return kernel

    def _anchors_on(self, like: Tensor) -> Tensor:
        return self._anchors.to(device=like.device)

    def _shares(self, codes: Tensor) -> Tensor:
        """Return the shares of the components without the absorber's, summing to one, shape (n, k)."""
        return self._kernel().log_code(codes, self._anchors_on(codes))[0].softmax(dim=1)

    def _each(
        self,
        model: MixtureAutoencoder,
        source: Source,
        write: Callable[[slice, EmbeddedCodes, Tensor], None],
        *,
        in_order: bool = False,
    ) -> None:
        """Call ``write(rows, codes, log_likelihood)`` on every block of rows."""
        kernel, anchors = self._kernel(), self._anchors.to(source.device)
        k, corners = model.n_components, kernel.corners(anchors)
        even = replace(model, log_weights=torch.full_like(model.log_weights, -math.log(k)))

        def visit(block: Block) -> None:
            h = even.log_joint(block.x.double()) + math.log(k)
            write(slice(block.start, block.stop), encode_exact(h, anchors, kernel, corners=corners), h)

        rows = max(64, _BLOCK_NUMBERS // anchors.numel())
        if in_order:
            for block in source.blocks(rows):
                visit(block)
        else:
            source.map_rows(visit, rows)

    def _placed(self, model: MixtureAutoencoder, source: Source) -> tuple[EmbeddedCodes, Tensor]:
        """Return the codes of all rows, and the absorber's share of each."""
        n, anchors = source.n_rows, self._anchors.to(source.device)
        codes, numbers = anchors.new_empty(n, anchors.shape[1]), anchors.new_empty(3, n)
        steps = torch.empty(n, dtype=torch.int64, device=source.device)
        exists = torch.empty(n, dtype=torch.bool, device=source.device)
        kernel = self._kernel()

        def write(rows: slice, found: EmbeddedCodes, h: Tensor) -> None:
            del h
            codes[rows], steps[rows], exists[rows] = found.codes, found.n_steps, found.exists
            numbers[0, rows], numbers[1, rows] = found.value, found.gradient_norm
            numbers[2, rows] = kernel.log_code(found.codes, anchors)[1].exp()

        self._each(model, source, write)
        return EmbeddedCodes(codes, numbers[0], numbers[1], steps, exists), numbers[2]


def _require_apart(anchors: Tensor, beta: float) -> None:
    """Refuse first anchors that (all but) coincide: all in one place are stationary, and two hardly part."""
    apart = torch.cdist(anchors, anchors, compute_mode="donot_use_mm_for_euclid_dist")
    least = _LEAST_APART / math.sqrt(beta)
    pairs = torch.nonzero((apart < least).triu(1)).tolist()
    if pairs:
        named = ", ".join(f"{one} and {other}" for one, other in pairs[:_NAMED_ROWS])
        more = ", ..." if len(pairs) > _NAMED_ROWS else ""
        raise DataError(
            f"anchors_init has anchors that coincide ({named}{more}: less than {least:.2g} apart), from where a fit "
            f"does not tell their components apart. Place all anchors about 1 / sqrt(beta) = {1 / math.sqrt(beta):.2g} "
            "or more from each other, or leave out anchors_init."
        )
