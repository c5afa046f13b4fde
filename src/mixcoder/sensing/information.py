"""What measurements say about a row of a mixture: mutual information, its gradient, and operators that climb it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixcoder.sensing.design import designed_operator
from mixcoder.sensing.given import as_generator, as_variance
from mixcoder.sensing.operators import Matrix, as_operator
from mixcoder.sensing.prior import GaussianPrior

# A step is halved so often before the climb is over.
_HALVINGS = 30


@dataclass(frozen=True)
class Information:
    """What :func:`mixture_information` found.

    Parameters
    ----------
    value : float
        I(x; y), nats.
    standard_error : float
        Of the value; zero for one component.
    gradient : Tensor, shape (m, d)
        Of the value by the entries of H.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> prior = GaussianMixture.from_parameters(
    ...     [0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2
    ... )
    >>> g = torch.Generator().manual_seed(0)
    >>> along = mixture_information(
    ...     prior.model_, [[0.0, 1.0]], 1.0, generator=g
    ... )  # log(2) / 2, and nothing of k
    >>> abs(along.value - math.log(2) / 2) < 1e-9, along.gradient.shape
    (True, torch.Size([1, 2]))
    """

    value: float
    standard_error: float
    gradient: Tensor


@dataclass(frozen=True)
class InformativeOperator:
    """What :func:`informative_operator` found.

    Parameters
    ----------
    operator : Matrix, shape (m, d)
    values : tuple of float
        I(x; y) before each step and after the last, over the draws of the search, nats; they only rise.
    converged : bool
        Whether the last step raised it by less than ``tol``, or none did.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> prior = GaussianMixture.from_parameters(
    ...     [0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2
    ... )
    >>> g = torch.Generator().manual_seed(0)
    >>> found = informative_operator(prior.model_, 1, 0.1, start=[[0.6, 0.8]], generator=g)
    >>> found.converged, found.values[-1] >= found.values[0]
    (True, True)
    """

    operator: Matrix
    values: tuple[float, ...]
    converged: bool


def mixture_information(
    model: Any,
    operator: Any,
    noise_variance: float,
    *,
    n_draws: int = 10_000,
    generator: torch.Generator | int | None = None,
) -> Information:
    r"""Return what y = H x + e says about a row x of a mixture, and how that changes with H.

    .. math::
        I(x; y) = \sum_k \pi_k\, \tfrac12 \log|I + H\Sigma_kH'/s^2| + H(\pi) - E\,H(p(k|y)), \qquad
        \nabla_H I = \frac1{s^2}\, H\, E\,\mathrm{Cov}[x|y]

    Only what the components mix is drawn: the expectations of an entropy, between zero and H(pi), and of the spread of
    the components' estimates about their mean. Of one Gaussian both results are exact.

    Parameters
    ----------
    model : MixtureAutoencoder, GaussianPrior or fitted estimator
    operator : Operator, matrix or LinearOperator, shape (m, d)
        H.
    noise_variance : float
        s^2, positive.
    n_draws : int
        Observations drawn from the mixture.
    generator : torch.Generator or int, optional
        A seed stands for a generator; by default one is drawn by torch's own.

    References
    ----------
    Palomar & Verdu (2006), "Gradient of mutual information in linear vector Gaussian channels", equation 21; Carson,
    Chen, Rodrigues, Calderbank & Carin (2012), "Communications-inspired projection design with application to
    compressive sensing".

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> prior = GaussianMixture.from_parameters(
    ...     [0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2
    ... )
    >>> g = torch.Generator().manual_seed(0)
    >>> across = mixture_information(
    ...     prior.model_, [[1.0, 0.0]], 0.1, generator=g
    ... )  # tells the components apart
    >>> along = mixture_information(prior.model_, [[0.0, 1.0]], 0.1, generator=g)
    >>> across.value > along.value
    True
    """
    draws = _Draws.of(model, as_operator(operator).n_measurements, noise_variance, n_draws, generator)
    matrix = as_operator(operator).matrix(draws.rows)
    if matrix.shape[1] != draws.rows.shape[1]:
        raise ValueError(
            f"The operator sees {matrix.shape[1]} features, but this model has {draws.rows.shape[1]}."
        )
    known, entropies, weights, factors = draws.entropies(matrix)
    spread = torch.zeros_like(draws.covariances[0])
    mean = torch.zeros_like(draws.rows)
    y = draws.observed(matrix)
    for k, factor in enumerate(factors):
        white = torch.linalg.solve_triangular(factor, matrix @ draws.covariances[k], upper=False)  # (m, d)
        apart = torch.linalg.solve_triangular(factor, (y - draws.means[k] @ matrix.T).T, upper=False)
        estimate = draws.means[k] + apart.T @ white
        weighted = weights[:, k, None] * estimate
        spread += draws.log_weights[k].exp() * (draws.covariances[k] - white.T @ white)
        spread += weighted.T @ estimate / len(y)
        mean += weighted
    spread -= mean.T @ mean / len(y)
    error = float(entropies.std() / math.sqrt(len(y))) if len(factors) > 1 else 0.0
    return Information(float(known - entropies.mean()), error, matrix @ spread / draws.noise_variance)


def informative_operator(
    model: Any,
    n_measurements: int,
    noise_variance: float,
    *,
    power: float | None = None,
    start: Any = None,
    n_draws: int = 2000,
    max_iter: int = 100,
    tol: float = 1e-6,
    generator: torch.Generator | int | None = None,
) -> InformativeOperator:
    r"""Return an operator whose measurements say as much as can be about a row of a mixture, by gradient ascent.

    It climbs I(x; y) of :func:`mixture_information` over a sample of rows and noise that is drawn once, so that every
    accepted step raises it; among the operators of orthonormal rows (HH' = I) or, with a power, among those with
    tr(HH') = P. For one Gaussian :func:`designed_operator` is the maximum, in closed form; for a mixture it is where
    the climb begins.

    Parameters
    ----------
    model : MixtureAutoencoder, GaussianPrior or fitted estimator
    n_measurements : int
        m, between 1 and the number of features.
    noise_variance : float
        s^2, positive.
    power : float, optional
        P.
    start : matrix, shape (m, d), optional
        It is brought to the constraint first. By default the m first principal axes of the mixture.
    n_draws : int
    max_iter : int
        Most steps.
    tol : float
        The climb ends when a step gains less than this, in nats.
    generator : torch.Generator or int, optional
        A seed stands for a generator; by default one is drawn by torch's own.

    References
    ----------
    Carson, Chen, Rodrigues, Calderbank & Carin (2012), "Communications-inspired projection design with application to
    compressive sensing".

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> prior = GaussianMixture.from_parameters(
    ...     [0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2
    ... )
    >>> g = torch.Generator().manual_seed(0)
    >>> found = informative_operator(prior.model_, 1, 0.1, start=[[0.6, 0.8]], generator=g)
    >>> found.operator.values.abs().round(decimals=1)  # the axis on which the components are apart
    tensor([[1., 0.]], dtype=torch.float64)
    """
    if power is not None and not 0 < power < math.inf:
        raise ValueError(f"power must be positive and finite, or None for orthonormal rows, got {power!r}.")
    draws = _Draws.of(model, n_measurements, noise_variance, n_draws, generator)
    first = (designed_operator(model, n_measurements) if start is None else as_operator(start)).matrix(
        draws.rows
    )
    if first.shape != (n_measurements, draws.rows.shape[1]):
        raise ValueError(
            f"A start has shape {(n_measurements, draws.rows.shape[1])}, got {tuple(first.shape)}."
        )
    matrix = _retracted(first, power)
    value, slope = draws.climb(matrix, power)
    values, step, converged = [value], 1.0, False
    while len(values) <= max_iter and not converged:
        for _ in range(_HALVINGS):
            moved = _retracted(matrix + step * slope, power)
            reached, onward = draws.climb(moved, power)
            # Armijo's rule: a step that is worth a small share of what its slope promises.
            if reached >= value + 1e-4 * step * float(slope.square().sum()):
                break
            step *= 0.5
        else:
            converged = True
            break
        converged = reached - value < tol
        matrix, value, slope, step = moved, reached, onward, 2 * step
        values.append(value)
    return InformativeOperator(Matrix(matrix.contiguous()), tuple(values), converged)


@dataclass(frozen=True)
class _Draws:
    """A mixture about its shift, and rows and noise drawn from it."""

    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    rows: Tensor
    noise: Tensor
    noise_variance: float

    @classmethod
    def of(
        cls,
        model: Any,
        n_measurements: int,
        noise_variance: float,
        n_draws: int,
        generator: torch.Generator | int | None,
    ) -> _Draws:
        prior = GaussianPrior.of(model)
        noise_variance = as_variance("noise_variance", noise_variance, positive=True)
        generator = as_generator(generator, torch.device("cpu"))
        if n_draws < 2:
            raise ValueError(f"n_draws must be at least 2, got {n_draws!r}.")
        used = prior.used
        weights = prior.log_weights[used].exp().double()
        # Systematic draws of components: as many of each as its weight says, to one.
        places = (torch.arange(n_draws) + torch.rand((), generator=generator, dtype=torch.float64)) / n_draws
        bins = (weights / weights.sum()).cumsum(0)[:-1].contiguous()
        chosen = torch.searchsorted(bins.cpu(), places, right=True)
        index = torch.tensor(used)[chosen].to(prior.means.device)
        rows = (prior.means[index] + prior.deviations(index, generator)).double()
        noise = torch.randn(n_draws, n_measurements, generator=generator, dtype=torch.float64)
        return cls(
            prior.log_weights[used].double(),
            prior.means[used].double(),
            prior.covariances().double(),
            rows,
            noise.to(rows.device),
            noise_variance,
        )

    def observed(self, matrix: Tensor) -> Tensor:
        """Return the observations, less what the shift adds to them, shape (n, m)."""
        return self.rows @ matrix.T + math.sqrt(self.noise_variance) * self.noise

    def entropies(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the information less the mean entropy of codes; these (n,), the codes (n, k), factors (k, m, m)."""
        y, m = self.observed(matrix), len(matrix)
        seen = matrix @ self.covariances @ matrix.T
        factors = torch.linalg.cholesky(seen + self.noise_variance * torch.eye(m).to(seen))
        halves = factors.diagonal(dim1=1, dim2=2).log().sum(1)  # (k,) half log-determinants
        apart = (y - (self.means @ matrix.T)[:, None]).mT  # (k, m, n)
        white = torch.linalg.solve_triangular(factors, apart, upper=False)
        log_joint = (self.log_weights - halves)[:, None] - 0.5 * white.square().sum(1)
        log_code = torch.log_softmax(log_joint.T, 1)
        # Not entr(code): its derivative is infinite where a code is rounded to zero.
        entropies = -(log_code.exp() * log_code).sum(1)
        weights = self.log_weights.exp()
        known = weights @ (halves - 0.5 * m * math.log(self.noise_variance)) - weights @ self.log_weights
        return known, entropies, log_code.exp(), factors

    def climb(self, matrix: Tensor, power: float | None) -> tuple[float, Tensor]:
        """Return the information over these draws, and its gradient along the constraint."""
        matrix = matrix.detach().requires_grad_()
        known, entropies, _, _ = self.entropies(matrix)
        information = known - entropies.mean()
        (gradient,) = torch.autograd.grad(information, matrix)
        matrix, value = matrix.detach(), float(information.detach())
        if power is not None:
            return value, gradient - (gradient * matrix).sum() / matrix.square().sum() * matrix
        inner = gradient @ matrix.T
        return value, gradient - 0.5 * (inner + inner.T) @ matrix


def _retracted(matrix: Tensor, power: float | None) -> Tensor:
    """Return the operator brought back to orthonormal rows (by QR), or to its power (by its length)."""
    if power is not None:
        return matrix * (math.sqrt(power) / matrix.norm())
    axes, triangle = torch.linalg.qr(matrix.T)
    return (axes * torch.where(triangle.diagonal() < 0, -1.0, 1.0)).T


__all__ = ["Information", "InformativeOperator", "informative_operator", "mixture_information"]
