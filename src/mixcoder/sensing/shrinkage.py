"""Priors of many features from few rows: full covariances, drawn towards what they have in common."""

from __future__ import annotations

from typing import Any

import torch

from mixcoder.errors import DataError
from mixcoder.sensing.given import as_model, as_tensor
from mixcoder.sensing.prior import GaussianPrior
from mixcoder.sources import Source, TensorSource

_BLOCK = 1 << 23  # numbers in a block of rows


def shrunk_prior(model: Any, x: Any, *, strength: float = 50.0, min_variance: float = 1e-4) -> GaussianPrior:
    r"""Return the mixture of full Gaussians that a fitted model's hard codes ask for, with covariances that share.

    .. math::
        \Sigma_k = \frac{N_k S_k + \kappa\, \bar\Sigma}{N_k + \kappa} + v I, \qquad
        \bar\Sigma = \frac1N \sum_k N_k S_k

    with N_k, S_k count and covariance of the rows of component k: the most probable covariances under an inverse
    Wishart prior centred on the pooled one. With more features than rows a component, covariances by maximum likelihood
    are singular and low rank ones treat all that they leave out as round noise; these are neither, and recover from few
    measurements and from many.

    Parameters
    ----------
    model : MixtureAutoencoder or fitted estimator
        Says which component each row belongs to: a :class:`~mixcoder.KMeans`, any mixture, or its ``model_``.
    x : Tensor, array or Source, shape (n, d)
        Rows, of any number of blocks.
    strength : float
        kappa, the number of rows that the pooled covariance counts for; non-negative.
    min_variance : float
        v, as a fraction of the mean variance of the features; positive.

    Returns
    -------
    GaussianPrior
        To be given to :func:`posterior`. A component without rows has no weight.

    References
    ----------
    Aguerrebere, Almansa, Delon, Gousseau & Muse (2017), "A Bayesian hyperprior approach for joint image denoising and
    interpolation, with an application to HDR imaging", of which this is the mode.

    Examples
    --------
    >>> from mixcoder import KMeans
    >>> x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> model = KMeans(5, random_state=0).fit(x).model_
    >>> prior = shrunk_prior(model, x)  # six rows a component say little about 8 x 8 numbers
    >>> bool((torch.linalg.eigvalsh(prior.spread(0)) > 0.1).all())
    True
    """
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength must be non-negative and finite, got {strength!r}.")
    if not 0 < min_variance < float("inf"):
        raise ValueError(f"min_variance must be positive and finite, got {min_variance!r}.")
    model = as_model(model)
    source = x if isinstance(x, Source) else TensorSource(as_tensor("x", x))
    k, d = model.n_components, model.n_features
    if source.n_features != d:
        raise DataError(f"Rows have {source.n_features} features, but this model has {d}.")
    assigned = model.assign(source)
    counts = torch.bincount(assigned, minlength=k).double()
    centres = model.prototypes()
    sums, scatters = centres.new_zeros(k, d), centres.new_zeros(k, d, d)
    for block in source.blocks(max(1, _BLOCK // d)):
        own = assigned[block.start : block.stop]
        for component in torch.unique(own).tolist():
            # About the prototype, so that the squares of float32 rows do not cancel.
            apart = block.x[own == component] - centres[component].to(block.x.dtype)
            sums[component] += apart.sum(0, dtype=torch.float64)
            scatters[component] += (apart.T @ apart).double()
    offsets = sums / counts.clamp_min(1.0)[:, None]
    for component in range(k):
        scatters[component] -= counts[component] * offsets[component, :, None] * offsets[component]
    pooled = scatters.sum(0) / counts.sum()
    weights = counts / counts.sum()
    means = centres + offsets
    shift = weights @ means
    total = pooled.diagonal().mean() + (weights @ (means - shift).square()).mean()
    for component in range(k):
        heavier = counts[component] + strength
        if heavier > 0:
            scatters[component].add_(pooled, alpha=strength).div_(heavier)
        scatters[component].diagonal().add_(min_variance * total)
    return GaussianPrior(weights.log(), shift, means - shift, scatters)


__all__ = ["shrunk_prior"]
