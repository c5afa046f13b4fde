"""The posterior through a mask a row, where rows with equal masks are asked together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from mixcoder.sensing.given import as_generator
from mixcoder.sensing.masks import RowMasks

if TYPE_CHECKING:
    from mixcoder.sensing.posterior import Posterior


@dataclass(frozen=True)
class GroupedPosterior:
    """The answers of :class:`Posterior` for a mask a row, under covariances that are neither diagonal nor low rank.

    Each distinct mask takes one factorisation a covariance and question, which is then forgotten: memory does not
    depend on how many masks there are.

    Parameters
    ----------
    y : Tensor, shape (n, d)
    operator : RowMasks
    temperature : float
    n_components : int
    through : callable
        Returns the posterior of some rows of y, given the features that they show and the temperature.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> from mixcoder.sensing import posterior
    >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> masks = RowMasks(torch.tensor([[True, False], [False, True]]))
    >>> seen = posterior(mixture.model_, torch.tensor([[2.0, 0.0], [0.0, 2.0]]), masks, noise_variance=1.0)
    >>> isinstance(seen, GroupedPosterior), seen.mean
    (True, tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]]))
    """

    y: Tensor
    operator: RowMasks
    temperature: float
    n_components: int
    through: Callable[[Tensor, Tensor, float], Posterior]

    @property
    def n_rows(self) -> int:
        """Number of observations."""
        return int(self.y.shape[0])

    def at(self, temperature: float) -> Self:
        """Return the posterior with the weights of another temperature."""
        return replace(self, temperature=temperature)

    @property
    def weights(self) -> Tensor:
        """The weights of the components, shape (n, k)."""
        return self._gather(lambda part: part.weights, self.n_components)

    @property
    def log_evidence(self) -> Tensor:
        """The log-density of what each row shows, in nats, shape (n,)."""
        return self._gather(lambda part: part.log_evidence)

    @property
    def component_means(self) -> Tensor:
        """The mean of each component of the posterior, shape (n, k, d)."""
        return self._gather(lambda part: part.component_means, self.n_components, self.y.shape[1])

    @property
    def mean(self) -> Tensor:
        """The posterior mean, shape (n, d)."""
        return self._gather(lambda part: part.mean, self.y.shape[1])

    @property
    def variance(self) -> Tensor:
        """The variance of each feature, shape (n, d)."""
        return self._gather(lambda part: part.variance, self.y.shape[1])

    def hard(self, rule: str = "marginal") -> tuple[Tensor, Tensor]:
        """Return the mean of one component a row, shape (n, d), and that component, shape (n,)."""
        index = torch.empty(self.n_rows, dtype=torch.int64, device=self.y.device)
        result = torch.empty_like(self.y)
        for rows, part in self._parts():
            result[rows], index[rows] = part.hard(rule)
        return result, index

    def sample(self, n_draws: int, generator: torch.Generator | int | None = None) -> tuple[Tensor, Tensor]:
        """Return draws, shape (n_draws, n, d), and the component of each, shape (n_draws, n)."""
        generator = as_generator(generator, self.y.device)  # one for all rows
        draws = self.y.new_empty(max(n_draws, 0), *self.y.shape)
        index = torch.empty(draws.shape[:2], dtype=torch.int64, device=self.y.device)
        for rows, part in self._parts():
            draws[:, rows], index[:, rows] = part.sample(n_draws, generator)
        return draws, index

    def _parts(self) -> Iterator[tuple[Tensor, Posterior]]:
        patterns, place = self.operator.patterns()
        order = torch.argsort(place, stable=True)
        for pattern, rows in zip(patterns, order.split(torch.bincount(place).tolist()), strict=True):
            columns = pattern.nonzero()[:, 0]
            yield rows, self.through(self.y[rows[:, None], columns], columns, self.temperature)

    def _gather(self, ask: Callable[[Posterior], Tensor], *shape: int) -> Tensor:
        result = self.y.new_empty(self.n_rows, *shape)
        for rows, part in self._parts():
            result[rows] = ask(part)
        return result


__all__ = ["GroupedPosterior"]
