"""Rows with missing entries: marginal and conditional mixtures, posterior means of what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components.factor_analyzer import FactorAnalyzer, FactorAnalyzerParams
from mixcoder.components.gaussian_diagonal import GaussianDiagonalParams
from mixcoder.components.gaussian_full import GaussianFullParams
from mixcoder.components.gaussian_low_rank_tied import GaussianLowRankTiedParams
from mixcoder.components.gaussian_tied import GaussianTiedParams
from mixcoder.components.gaussian_tied_diagonal import GaussianTiedDiagonalParams
from mixcoder.components.ppca import PPCAParams
from mixcoder.errors import DataError
from mixcoder.ops import low_rank
from mixcoder.sensing.given import as_generator, as_model, as_tensor
from mixcoder.sensing.prior import require_gaussian, spreads_of


def marginal(model: Any, columns: Sequence[int]) -> MixtureAutoencoder:
    r"""Return the mixture of some of the features, in the order given: the others are integrated out.

    .. math:: p(x_a) = \sum_k \pi_k\, N(x_a;\ \mu_{k,a}, \Sigma_{k,aa})

    It has the family of the model: all Gaussian families, those of low rank too, are closed under this.

    Parameters
    ----------
    model : MixtureAutoencoder or fitted estimator
        Of any Gaussian family.
    columns : sequence of int
        Features to keep, distinct, in 0..d-1; at least one, and of a low rank family more than its latent axes.

    Raises
    ------
    ValueError
        If a column is out of range or named twice, or none is left, or too few for planes.
    TypeError
        If the components are not Gaussian.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> marginal(mixture.model_, [1]).n_features
    1
    """
    model = as_model(model)
    _require_closed(model)
    kept = checked_columns(model, columns)
    if not len(kept):
        raise ValueError("A marginal needs at least one column, got none; name the columns to keep.")
    return _of_columns(model, kept, _marginal_params(model.params, kept), model.log_weights)


def condition(model: Any, columns: Sequence[int], values: Any) -> MixtureAutoencoder:
    r"""Return the mixture of the other features, in their order, given the values of some.

    .. math::
        p(x_b | x_a) = \sum_k r_k\, N\!\left(x_b;\ \mu_{k,b} + \Sigma_{k,ba} \Sigma_{k,aa}^{-1} (x_a - \mu_{k,a}),\
                       \Sigma_{k,bb} - \Sigma_{k,ba} \Sigma_{k,aa}^{-1} \Sigma_{k,ab}\right),
        \quad r_k \propto \pi_k\, N(x_a;\ \mu_{k,a}, \Sigma_{k,aa})

    It has the family of the model: all Gaussian families are closed under this too. No column given, it is the model.

    Parameters
    ----------
    model : MixtureAutoencoder or fitted estimator
        Of any Gaussian family.
    columns : sequence of int
        Features that are known, distinct, in 0..d-1; not all of them.
    values : Tensor, shape (len(columns),)
        What they are, in the units of the rows.

    Raises
    ------
    DataError
        If there is not one finite value a column.
    ValueError
        If a column is out of range or named twice, or none would be left, or too few for planes.
    TypeError
        If the components are not Gaussian.

    References
    ----------
    Bishop (2006), equations 2.81 and 2.82.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> known = condition(mixture.model_, [0], torch.tensor([2.0]))  # E[x_1 | x_0 = 2] = 0.5 * 2
    >>> known.prototypes()
    tensor([[1.]], dtype=torch.float64)
    """
    model, values = as_model(model), as_tensor("values", values)
    _require_closed(model)
    known = checked_columns(model, columns)
    if len(known) == model.n_features:
        raise ValueError(
            f"All {model.n_features} features are known: there is nothing to condition. Leave a column out."
        )
    if values.shape != known.shape:
        raise DataError(
            f"values has shape {tuple(values.shape)}, expected {tuple(known.shape)}: one value for each known column."
        )
    if not bool(torch.isfinite(values).all()):
        place = int((~torch.isfinite(values)).nonzero()[0, 0])
        raise DataError(
            f"values contains NaN or infinity, first for column {int(known[place])}; leave the column out instead."
        )
    rest = _others(known, model.n_features)
    x = model.frame.select(known).apply(values.to(model.device, torch.float64)[None])
    log_joint = _log_joint(model, known, x)
    log_weights = torch.log_softmax(log_joint, 1)[0]
    return _of_columns(model, rest, _conditional_params(model.params, known, rest, x), log_weights)


def impute(model: Any, x: Any) -> Tensor:
    r"""Return the rows with each missing entry replaced by its posterior mean, in the dtype of ``x``, shape (n, d).

    .. math:: E[x_b | x_a] = \sum_k r_k\, E[x_b | x_a, k], \qquad
              E[x_b | x_a, k] = \mu_{k,b} + \Sigma_{k,ba} \Sigma_{k,aa}^{-1} (x_a - \mu_{k,a})

    (the second for Gaussian components), of all values the one of least squared error. What is there stays as it is,
    to the last bit. A row without any entry becomes the mean of the prior.

    Parameters
    ----------
    model : MixtureAutoencoder or fitted estimator
        Of a family that can miss entries: any Gaussian one, PPCA, factor analysers, bits, counts, categories.
    x : Tensor, shape (n, d)
        Floating; NaN where an entry is missing.

    Raises
    ------
    DataError
        If ``x`` has the wrong width or holds an infinity.
    TypeError
        If the family has no rule for missing entries.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> impute(mixture.model_, torch.tensor([[2.0, torch.nan]]))
    tensor([[2., 1.]])
    """
    model, x = _checked_incomplete(model, x)
    return model.complete(x)


def sample_missing(model: Any, x: Any, generator: torch.Generator | int | None = None) -> Tensor:
    """Return the rows with the missing entries of each drawn from p(x_b | x_a), in the dtype of ``x``, shape (n, d).

    Parameters and errors are those of :func:`impute`. A seed stands for a generator; by default one is drawn by torch's
    own.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> rows = torch.tensor([[2.0, torch.nan]]).expand(1000, 2)
    >>> drawn = sample_missing(mixture.model_, rows, torch.Generator().manual_seed(0))
    >>> bool((drawn[:, 0] == 2).all()), abs(float(drawn[:, 1].mean()) - 1) < 0.1
    (True, True)
    """
    model, x = _checked_incomplete(model, x)
    return model.complete(x, as_generator(generator, x.device))


def observed_log_prob(model: Any, x: Any) -> Tensor:
    r"""Return the log-density of what each row has, :math:`\log p(x_a)`, in nats, in the dtype of ``x``, shape (n,).

    Entries that are NaN are integrated out. A row without any entry has the log-density 0. Rows that miss different
    columns have densities of different units: compare models on them, not one row with another.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> observed_log_prob(mixture.model_, torch.tensor([[0.0, torch.nan]]))  # log N(0; 0, 1)
    tensor([-0.9189])
    """
    model, x = _checked_incomplete(model, x)
    return model.log_prob(x)


def checked_columns(model: MixtureAutoencoder, columns: Sequence[int]) -> Tensor:
    """Return column numbers as an int64 tensor; each must be a feature of the model, and none named twice."""
    numbers = [int(column) for column in columns]
    outside = [column for column in numbers if not 0 <= column < model.n_features]
    if outside:
        raise ValueError(
            f"Columns must be in 0..{model.n_features - 1}, got {outside[0]}: this model has {model.n_features} "
            "features."
        )
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"Columns must be distinct, got {numbers}; name each once.")
    return torch.tensor(numbers, dtype=torch.int64, device=model.device)


def _others(columns: Tensor, n_features: int) -> Tensor:
    left = torch.ones(n_features, dtype=torch.bool, device=columns.device)
    left[columns] = False
    return left.nonzero()[:, 0]


def _require_closed(model: MixtureAutoencoder) -> None:
    """Raise a TypeError where the mixture of some columns is not of the family of the model."""
    if not isinstance(model.family, FactorAnalyzer):
        require_gaussian(model)


def require_marginals(model: MixtureAutoencoder) -> None:
    """Raise a TypeError where the family of a model has no rule for missing entries."""
    if not model.family.marginalizes:
        raise TypeError(
            f"Missing entries need a family that integrates them out, but this model has "
            f"{type(model.family).__name__}; fit a GaussianMixture, or a Mixture of another family that does."
        )


def _checked_incomplete(given: Any, rows: Any) -> tuple[MixtureAutoencoder, Tensor]:
    model, x = as_model(given), as_tensor("x", rows)
    require_marginals(model)
    if x.ndim != 2 or x.shape[1] != model.n_features or not x.is_floating_point():
        raise DataError(
            f"Rows have shape {tuple(x.shape)} and dtype {x.dtype}, expected (n_rows, {model.n_features}), floating, "
            "with NaN for what is missing."
        )
    if bool(x.isinf().any()):
        row, column = x.isinf().nonzero()[0].tolist()
        raise DataError(
            f"Rows contain infinity, first at row {row}, column {column}; a missing entry is NaN, not infinity."
        )
    return model, x


def _log_joint(model: MixtureAutoencoder, known: Tensor, z: Tensor) -> Tensor:
    """Return log pi_k + log p(z_a | k) in working units, shape (n, k)."""
    if not len(known):
        return model.log_weights.expand(len(z), -1)
    params = _marginal_params(model.params, known)
    log_likelihood = model.family.log_likelihood(params, z.clamp(-1e140, 1e140))
    return log_likelihood + model.log_weights


def _marginal_params(params: Any, columns: Tensor) -> Any:
    """Return the parameters of some of the features."""
    means = params.means[:, columns]
    match params:
        case GaussianFullParams():
            return GaussianFullParams.build(means, params.covariances[:, columns[:, None], columns])
        case GaussianTiedParams():
            return GaussianTiedParams.build(means, params.covariance[0][columns[:, None], columns])
        case GaussianLowRankTiedParams():
            shared = params.covariance[0][columns[:, None], columns]
            return GaussianLowRankTiedParams.build(means, params.loadings[:, columns], shared)
        case PPCAParams():
            loadings = low_rank.orthogonal(params.loadings[:, columns])
            return replace(params, means=means, loadings=loadings)
        case FactorAnalyzerParams():
            noise = params.noise_variances[:, columns]
            return FactorAnalyzerParams(means, params.loadings[:, columns], noise)
        case GaussianDiagonalParams() | GaussianTiedDiagonalParams():
            return replace(params, means=means, variances=params.variances[:, columns])
        case _:
            return replace(params, means=means)


def _conditional_params(params: Any, known: Tensor, rest: Tensor, x: Tensor) -> Any:
    """Return the parameters of the other features, given one row of working values, shape (1, a)."""
    if isinstance(params, GaussianLowRankTiedParams) and len(known):
        return _conditional_planes(params, known, rest, x)
    if isinstance(params, PPCAParams | FactorAnalyzerParams):
        return _conditional_factors(params, known, rest, x)
    spreads = spreads_of(params)
    if spreads.ndim == 2 or not len(known):
        return _marginal_params(params, rest)
    # With the known features first, the last block of the Cholesky factor is a factor of the Schur complement: no
    # difference of covariances is taken, and what is left is positive definite by construction.
    order, a = torch.cat([known, rest]), len(known)
    factors = torch.linalg.cholesky(spreads[:, order[:, None], order])
    apart = (x - params.means[:, known])[:, :, None]  # (k, a, 1)
    white = torch.linalg.solve_triangular(factors[:, :a, :a].expand(len(apart), a, a), apart, upper=False)
    means = params.means[:, rest] + (factors[:, a:, :a] @ white)[:, :, 0]
    left = factors[:, a:, a:] @ factors[:, a:, a:].mT
    if isinstance(params, GaussianTiedParams):
        return GaussianTiedParams.build(means, left[0])
    return GaussianFullParams.build(means, left)


def _conditional_planes(
    params: GaussianLowRankTiedParams, known: Tensor, rest: Tensor, x: Tensor
) -> GaussianLowRankTiedParams:
    r"""Return planes in one noise, given some features: S_0 as any covariance, and what is left of the loadings.

    .. math:: \tilde W = W_b - S_{ba} S_{aa}^{-1} W_a, \qquad
              W \leftarrow \tilde W L^{-\top}, \quad LL' = I + W_a' S_{aa}^{-1} W_a
    """
    order, a = torch.cat([known, rest]), len(known)
    factor = torch.linalg.cholesky(params.covariance[0][order[:, None], order])
    apart = torch.cat(
        [params.loadings[:, known], (x - params.means[:, known])[:, :, None]], 2
    )  # (k, a, q + 1)
    white = torch.linalg.solve_triangular(factor[:a, :a].expand(len(apart), a, a), apart, upper=False)
    carried = factor[a:, :a] @ white
    seen, residual = white[:, :, :-1], white[:, :, -1:]
    projections, factors = low_rank.posterior(seen, seen.new_ones(len(seen), 1))
    left = params.loadings[:, rest] - carried[:, :, :-1]
    means = params.means[:, rest] + (carried[:, :, -1:] + left @ (projections @ residual))[:, :, 0]
    loadings = torch.linalg.solve_triangular(factors, left.mT, upper=False).mT
    return GaussianLowRankTiedParams.build(means, loadings, factor[a:, a:] @ factor[a:, a:].T)


def _conditional_factors(
    params: PPCAParams | FactorAnalyzerParams, known: Tensor, rest: Tensor, x: Tensor
) -> PPCAParams | FactorAnalyzerParams:
    r"""Return planes with noise that is independent feature by feature, given some features.

    .. math:: M = I + W_a' \Psi_a^{-1} W_a = LL', \qquad \mu_b + W_b M^{-1} W_a' \Psi_a^{-1} (x_a - \mu_a),
              \qquad W \leftarrow W_b L^{-\top}
    """
    left = _marginal_params(params, rest)
    noise = (
        params.noise_variances[:, None]
        if isinstance(params, PPCAParams)
        else params.noise_variances[:, known]
    )
    projections, factors = low_rank.posterior(params.loadings[:, known], noise)
    latent = projections @ (x - params.means[:, known])[:, :, None]  # (k, q, 1)
    means = left.means + (params.loadings[:, rest] @ latent)[:, :, 0]
    loadings = torch.linalg.solve_triangular(factors, params.loadings[:, rest].mT, upper=False).mT
    loadings = low_rank.orthogonal(loadings) if isinstance(params, PPCAParams) else loadings
    return replace(left, means=means, loadings=loadings)


def family_of_columns(family: Any, columns: Sequence[int]) -> Any:
    """Return the family of some of the features: what is added to the variance of a column goes with it."""
    added = getattr(family, "added_variance", 0.0)
    if not isinstance(added, tuple):
        return family
    return replace(family, added_variance=tuple(added[column] for column in columns))


def _of_columns(
    model: MixtureAutoencoder, columns: Tensor, params: Any, log_weights: Tensor
) -> MixtureAutoencoder:
    if isinstance(params, PPCAParams | FactorAnalyzerParams):
        family: Any = model.family
        low_rank.require_rank(type(family).__name__, family.n_latent, len(columns))
    return replace(
        model,
        family=family_of_columns(model.family, columns.tolist()),
        params=params.contiguous(),
        log_weights=log_weights,
        frame=model.frame.select(columns),
        magnitude=model.magnitude[columns],
    )


__all__ = ["condition", "impute", "marginal", "observed_log_prob", "sample_missing"]
