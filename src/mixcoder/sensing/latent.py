"""Rows recovered through any decoder: the latent code whose decoded row explains an observation best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.sensing.given import as_generator, as_variance
from mixcoder.sensing.operators import Matrix, Operator, Rows, SciPyOperator, as_operator
from mixcoder.sensing.posterior import checked_observation

# Numbers of all Jacobians of a block of codes.
_ENTRIES = 1 << 24

# How long Adam remembers gradients and their squares: the usual numbers.
_ADAM = (0.9, 0.999)

Decoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LatentRecovery:
    """What :func:`recover_latent` found.

    Parameters
    ----------
    rows : Tensor, shape (n, d)
        The rows, decoded, and moved towards the observations as far as the decoder may err.
    decoded : Tensor, shape (n, d)
        G(z).
    latent : Tensor, shape (n, q)
        z.
    objectives : Tensor, shape (n,)
        What was minimised, at z.

    Examples
    --------
    >>> loading = torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64)
    >>> decoder = lambda z: z @ loading.to(z)
    >>> g = torch.Generator().manual_seed(0)
    >>> y = torch.tensor([[4.0]], dtype=torch.float64)
    >>> found = recover_latent(y, [[1.0, 0.0, 0.0]], decoder, 1, 1e-6, n_starts=1, n_steps=100, generator=g)
    >>> found.latent, found.rows
    (tensor([[2.0000]], dtype=torch.float64), tensor([[4.0000, 0.0000, 2.0000]], dtype=torch.float64))
    """

    rows: Tensor
    decoded: Tensor
    latent: Tensor
    objectives: Tensor


def recover_latent(
    y: Tensor,
    operator: Any,
    decoder: Decoder,
    n_latent: int,
    noise_variance: float,
    *,
    decoder_variance: float = 0.0,
    n_starts: int = 10,
    n_steps: int = 1000,
    learning_rate: float = 0.01,
    n_polish: int = 10,
    start: Tensor | None = None,
    generator: torch.Generator | int | None = None,
) -> LatentRecovery:
    r"""Return the most probable latent code of each observation y = H x + e, and its row.

    The decoder and its error are a prior, x = G(z) + r with z ~ N(0, I) and r ~ N(0, t^2 I), so that z minimises

    .. math:: (y - H G(z))'\, R^{-1}\, (y - H G(z)) + |z|^2, \qquad R = s^2 I + t^2 HH'

    and the row is what is then expected of x, :math:`G(z) + t^2 H' R^{-1} (y - HG(z))`. Of a linear decoder both are
    exact (those of PPCA).

    All starts of all observations are one batch: Adam, its steps falling to zero along a half cosine; then
    damped Gauss-Newton steps, each kept where it lowers the objective. For each observation the best start is kept.

    Parameters
    ----------
    y : Tensor, shape (n, m)
        One observation a row, float32 or float64; the decoder is given this dtype.
    operator : Operator, matrix or LinearOperator, shape (m, d)
        H.
    decoder : callable
        G: latent codes, shape (n, q), to rows, shape (n, d), each by itself; differentiable. Its own parameters are
        left as they are.
    n_latent : int
        q.
    noise_variance : float
        s^2, positive. Bora et al. minimise :math:`|y - HG(z)|^2/m + \lambda|z|^2`, which is this with
        :math:`s^2 = \lambda m` and t^2 = 0.
    decoder_variance : float
        t^2, which :func:`decoder_variance` measures; with it no lambda is left to choose.
    n_starts : int
        Starts z ~ N(0, I) of each observation.
    n_steps, learning_rate : int, float
        Of Adam.
    n_polish : int
        Gauss-Newton steps; each costs as much as some q + 3 calls of the decoder, and asks it for second derivatives
        (0 where it has none).
    start : Tensor, shape (n, q) or (r, n, q), optional
        In the place of random ones.
    generator : torch.Generator or int, optional
        Draws the starts, or its seed; needed where none are given.

    Raises
    ------
    DataError
        If y or the start has the wrong shape or a value that is not finite.
    ValueError
        If a setting is out of its range, or the decoder makes rows of another width.

    Examples
    --------
    >>> line = lambda z: z @ torch.tensor([[1.0, 1.0]])
    >>> found = recover_latent(torch.tensor([[3.0]]), [[1.0, 0.0]], line, 1, 0.5, start=torch.zeros(1, 1))
    >>> found.latent, found.rows
    (tensor([[2.]]), tensor([[2., 2.]]))

    References
    ----------
    Bora, Jalal, Price & Dimakis (2017), "Compressed sensing using generative models", equation 3.
    """
    operator = as_operator(operator)
    y = checked_observation(y, operator, operator.n_features)
    noise_variance = as_variance("noise_variance", noise_variance, positive=True)
    decoder_variance = as_variance("decoder_variance", decoder_variance)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate!r}.")
    if n_latent < 1 or n_starts < 1 or n_steps < 0 or n_polish < 0:
        raise ValueError(
            f"n_latent and n_starts must be at least 1, n_steps and n_polish at least 0, got {n_latent!r}, "
            f"{n_starts!r}, {n_steps!r} and {n_polish!r}."
        )
    n = len(y)
    if start is None:
        if generator is None:
            raise ValueError("Give a generator to draw the starts with, or a start.")
        generator = as_generator(generator, torch.device("cpu"))
        start = torch.randn(n_starts, n, n_latent, generator=generator, dtype=torch.float64).to(y)
    z = start.to(y).detach().reshape(-1, *start.shape[-2:])
    if z.shape[1:] != (n, n_latent) or not len(z) or not bool(torch.isfinite(z).all()):
        raise DataError(
            f"A start is finite, of shape {(n, n_latent)} or (n_starts, {n}, {n_latent}), got {tuple(start.shape)} "
            "or one with NaN or infinity."
        )
    if isinstance(operator, SciPyOperator):
        operator = Matrix(operator.matrix(y))  # SciPy's operators have no derivatives
    noise = _Noise(operator, noise_variance, decoder_variance, y)
    problem = _Problem(y.repeat(len(z), 1), operator, decoder, noise)
    z = z.flatten(0, 1)
    problem.check(z)
    z = problem.descend(z, n_steps, learning_rate) if n_steps else z
    z, objectives = problem.polish(z, n_polish)
    place = objectives.reshape(-1, n).argmin(0) * n + torch.arange(n, device=y.device)
    z, objectives = z[place], objectives[place]
    with torch.no_grad():
        decoded = decoder(z)
        unexplained = noise.unexplained(y - operator.apply(decoded))
        rows = decoded + decoder_variance * operator.adjoint(unexplained)
    return LatentRecovery(rows, decoded, z, objectives)


def decoder_variance(
    decoder: Decoder,
    x: Tensor,
    n_latent: int,
    *,
    n_starts: int = 4,
    n_steps: int = 500,
    learning_rate: float = 0.03,
    n_polish: int = 10,
    generator: torch.Generator,
) -> float:
    r"""Return the variance t^2 of what a decoder leaves of each feature of a row, from rows it was not fitted to.

    .. math:: t^2 = \frac1{n (d - q)} \sum_n \min_z |x_n - G(z)|^2

    q of the d degrees of freedom are lost to z; of a linear decoder the estimate is unbiased.

    Parameters
    ----------
    decoder : callable
        G: latent codes, shape (n, q), to rows, shape (n, d).
    x : Tensor, shape (n, d)
    n_latent : int
        q, less than d.
    n_starts, n_steps, learning_rate, n_polish, generator
        Of the search, as in :func:`recover_latent`.

    Examples
    --------
    >>> loading = torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64)
    >>> decoder = lambda z: z @ loading.to(z)
    >>> g = torch.Generator().manual_seed(0)
    >>> z, noise = (torch.randn(size, generator=g, dtype=torch.float64) for size in [(500, 1), (500, 3)])
    >>> left = decoder_variance(decoder, decoder(z) + 0.1 * noise, 1, n_starts=1, n_steps=100, generator=g)
    >>> abs(left / 0.01 - 1) < 0.1
    True
    """
    if x.ndim != 2 or not len(x) or not n_latent < x.shape[1]:
        raise DataError(
            f"Rows of more than n_latent={n_latent} features were expected, got {tuple(x.shape)}."
        )
    # The code's own size is next to nothing beside the residual: minimum norm where several codes fit alike.
    scale = 1e-6 * float(x.double().var())
    if not scale > 0:
        raise DataError("The rows do not vary, or hold NaN: they cannot measure a decoder.")
    found = recover_latent(
        x,
        Rows.of(list(range(x.shape[1])), x.shape[1]),
        decoder,
        n_latent,
        scale,
        n_starts=n_starts,
        n_steps=n_steps,
        learning_rate=learning_rate,
        n_polish=n_polish,
        generator=generator,
    )
    left = (x - found.decoded).double().square().sum()
    return float(left) / (len(x) * (x.shape[1] - n_latent))


class _Problem:
    """Residuals, objectives and steps for a batch of codes, each with its observation."""

    def __init__(self, y: Tensor, operator: Operator, decoder: Decoder, noise: _Noise) -> None:
        self.y, self.operator, self.decoder, self.noise = y, operator, decoder, noise

    def check(self, z: Tensor) -> None:
        """Raise a ValueError where the decoder's rows have another width than the operator."""
        decoded = self.decoder(z[:1].detach().requires_grad_())
        shape = tuple(decoded.shape)
        if not decoded.requires_grad:
            raise ValueError(
                "The decoder's rows have no derivative by its codes: it must be made of torch operations."
            )
        if shape != (1, self.operator.n_features):
            raise ValueError(
                f"The decoder made {shape} of one code of {z.shape[1]} numbers, expected "
                f"{(1, self.operator.n_features)}: a row of as many features as the operator sees."
            )

    def seen(self, z: Tensor) -> Tensor:
        """Return the decoded rows as they would be observed, in units of the noise, shape (b, m)."""
        return self.noise.white(self.operator.apply(self.decoder(z)))

    def objectives(self, z: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the objective of each code, shape (b,)."""
        residuals = self.noise.white(self.y[rows]) - self.seen(z)
        return residuals.square().sum(1, dtype=torch.float64) + z.square().sum(1, dtype=torch.float64)

    def descend(self, z: Tensor, n_steps: int, learning_rate: float) -> Tensor:
        """Return the codes after some steps of Adam; every number of a code has steps of its own size."""
        # Written out: the first step of torch's own optimisers imports the compiler, which takes seconds.
        first, second = torch.zeros_like(z), torch.zeros_like(z)
        for i in range(1, n_steps + 1):
            z = z.detach().requires_grad_()
            # Not backward(): the decoder's parameters would collect gradients that nobody asked for.
            (gradient,) = torch.autograd.grad(self.objectives(z).sum(), z)
            first = _ADAM[0] * first + (1 - _ADAM[0]) * gradient
            second = _ADAM[1] * second + (1 - _ADAM[1]) * gradient.square()
            size = (second / (1 - _ADAM[1] ** i)).sqrt() + 1e-8
            rate = 0.5 * learning_rate * (1 + math.cos(math.pi * (i - 1) / n_steps))
            z = z.detach() - rate / (1 - _ADAM[0] ** i) * first / size
        return z

    def polish(self, z: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Return the codes after damped Gauss-Newton steps, and their objectives."""
        size = max(1, _ENTRIES // (self.y.shape[1] * z.shape[1]))
        parts = [
            self._polished(z[at : at + size], slice(at, at + size), n_steps) for at in range(0, len(z), size)
        ]
        return torch.cat([part for part, _ in parts]), torch.cat([objective for _, objective in parts])

    @torch.no_grad()
    def _polished(self, z: Tensor, rows: slice, n_steps: int) -> tuple[Tensor, Tensor]:
        identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        objectives, damping = self.objectives(z, rows), z.new_zeros(len(z))
        for _ in range(n_steps):
            seen, jacobians = self._linearised(z)
            gradients = z - torch.einsum("bmq,bm->bq", jacobians, self.noise.white(self.y[rows]) - seen)
            curvatures = jacobians.mT @ jacobians + identity
            curvatures += damping[:, None, None] * torch.diag_embed(curvatures.diagonal(dim1=1, dim2=2))
            moved = z - torch.linalg.solve(curvatures, gradients)
            found = self.objectives(moved, rows)
            better = found < objectives  # false where a step led to no number
            z, objectives = torch.where(better[:, None], moved, z), torch.where(better, found, objectives)
            damping = torch.where(better, 0.1 * damping, (10 * damping).clamp_min(1e-3))
        return z, objectives

    @torch.enable_grad()
    def _linearised(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is seen of the codes and its derivative by each, shapes (b, m) and (b, m, q)."""
        z = z.detach().requires_grad_()
        seen = self.seen(z)
        # u'J is linear in u, and its derivative by u is J: two backward passes are one forward one.
        u = torch.zeros_like(seen, requires_grad=True)
        (products,) = torch.autograd.grad(seen, z, u, create_graph=True)
        # Codes are decoded each by itself, so the sum over codes gives a column of each Jacobian.
        columns = [torch.autograd.grad(product, u, retain_graph=True)[0] for product in products.sum(0)]
        return seen.detach(), torch.stack(columns, 2)


class _Noise:
    """The covariance R = s^2 I + t^2 HH' of what no code explains."""

    def __init__(
        self, operator: Operator, noise_variance: float, decoder_variance: float, like: Tensor
    ) -> None:
        self.std = math.sqrt(noise_variance)
        self.factor: Tensor | None = None
        if decoder_variance:
            matrix = operator.matrix(like).double()
            covariance = decoder_variance * matrix @ matrix.T
            covariance.diagonal().add_(noise_variance)
            self.factor = torch.linalg.inv(torch.linalg.cholesky(covariance)).to(like)

    def white(self, rows: Tensor) -> Tensor:
        """Return L^-1 r of each row, with R = L L'."""
        return rows / self.std if self.factor is None else rows @ self.factor.T

    def unexplained(self, rows: Tensor) -> Tensor:
        """Return R^-1 r of each row."""
        return rows / self.std**2 if self.factor is None else rows @ self.factor.T @ self.factor


__all__ = ["LatentRecovery", "decoder_variance", "recover_latent"]
