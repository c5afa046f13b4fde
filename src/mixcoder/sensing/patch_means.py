"""Images whose pixels are means of what is expected of them in all patches, weighted by how well each is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mixcoder.sensing.adaptation import adapted_prior, expected_rows
from mixcoder.sensing.filling import CANDIDATES, expected_entries, likely_components
from mixcoder.sensing.patches import Patches
from mixcoder.sensing.prior import GaussianPrior

# Patches to which a mixture is adapted, at most.
_ADAPTED = 1 << 15

# Smallest variance of the noise of known pixels, as a share of that of the pixels of a patch.
_SHARP = 1e-4

# Components of a patch are left out below this share of its most probable one: of hundreds a few tens are kept, which
# together have 99.5 % of the posterior and more, in a fraction of the time.
_NEGLIGIBLE = 5e-3

OnRound = Callable[[int, int], None]


def without_noise(
    prior: GaussianPrior,
    patches: Patches,
    image: Tensor,
    noise_std: float,
    *,
    removes_mean: bool,
    strength: float,
    n_adaptations: int,
    on_round: OnRound | None,
) -> Tensor:
    """Return what is expected of an image behind white noise, under a mixture that has met its patches."""
    x, variance = patches.stacked(image), noise_std**2
    rows = patches.take(x)
    centre = patches.centre(rows) if removes_mean else torch.zeros_like(rows)
    rows = rows - centre
    # Some of the patches in a random order: every so many of them would lie in the same columns of each line.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:_ADAPTED].to(rows.device)
    n_rounds = n_adaptations + 1
    adapted = adapted_prior(
        prior,
        rows[order],
        variance,
        strength=strength,
        n_steps=n_adaptations,
        negligible=_NEGLIGIBLE,
        on_step=None if on_round is None else lambda done: on_round(done, n_rounds),
    )
    expected, variances = expected_rows(adapted, rows, variance, _NEGLIGIBLE)
    if removes_mean:  # the mean is as it was seen
        variances = variances + variance / patches.size**2
    variances = variances.clamp_min(torch.finfo(rows.dtype).tiny)[:, None]
    clean = patches.averaged(expected + centre, variances, x.shape)
    if on_round is not None:
        on_round(n_rounds, n_rounds)
    return clean.reshape(image.shape)


def filled_in(
    prior: GaussianPrior,
    patches: Patches,
    image: Tensor,
    mask: Tensor,
    start: Tensor,
    noise_std: float,
    *,
    removes_mean: bool,
    stds: Sequence[float],
    on_round: OnRound | None,
) -> Tensor:
    """Return what is expected of an image of which some pixels are known."""
    log_weights = prior.log_weights[prior.used]
    means, covariances = (prior.means + prior.shift)[prior.used], prior.covariances()
    level, spread = 0.0, 0.0
    if removes_mean:
        level, spread = float(image[mask].mean()), float(image[mask].double().var(correction=0))
    basis = patches.levels(covariances)
    leveled = covariances + spread * basis.T @ basis
    least = _SHARP * float(leveled.diagonal(dim1=1, dim2=2).mean())
    known = patches.take(patches.stacked(torch.where(mask, image, level))) - level
    seen = patches.take(patches.stacked(mask.to(image))) > 0
    whole = start
    for done, std in enumerate(stds, 1):
        x = patches.stacked(whole)
        rows = patches.take(x)
        rows = rows - patches.centre(rows) if removes_mean else rows
        candidates = likely_components(log_weights, means, covariances, rows, std**2, CANDIDATES)
        expected, variances = expected_entries(
            log_weights, means, leveled, known, seen, candidates, max(noise_std**2, least)
        )
        whole = patches.averaged(expected + level, variances.clamp_min(0.1 * least), x.shape).view_as(start)
        if noise_std == 0:
            whole = torch.where(mask, image, whole)
        if on_round is not None:
            on_round(done, len(stds))
    return whole


__all__ = ["OnRound", "filled_in", "without_noise"]
