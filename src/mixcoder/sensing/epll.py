"""Photographs restored with a mixture of patches: exact posteriors, and expected patch log-likelihood (EPLL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, Self, final

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from mixcoder.encoders.argmax import rowwise_argmax
from mixcoder.errors import DataError
from mixcoder.ops.gaussian import log_det_whitener, whitened_square_norms, whitening_factors
from mixcoder.sensing.given import as_tensor, as_variance
from mixcoder.sensing.images import Blur, Composition, Downsampling, inpainting, require_factor
from mixcoder.sensing.operators import Operator, Rows
from mixcoder.sensing.patch_means import OnRound, filled_in, without_noise
from mixcoder.sensing.patches import Patches
from mixcoder.sensing.pixels import at_least_rounding, checked_mask, require_image, side_of
from mixcoder.sensing.prior import GaussianPrior
from mixcoder.sensing.quadratics import compromise, smooth_fill

# Patches in a block: their distances to a component stay in cache.
_BLOCK = 1 << 13

# How often the mixture is adapted to an image before its noise is taken off, and how many rows it counts for then.
ADAPTATIONS, STRENGTH = 3, 50.0

# Standard deviations 1/sqrt(beta) of the rounds, for pixels in [0, 1].
RESTORING = tuple(0.1 * 20 ** (-i / 13) for i in range(14))  # from 0.1 to 0.005

# The same where pixels are filled in.
FILLING = (0.02, 0.01)

# A prior whose patches have a mean (of a channel) that varies by less than this share of their pixels has none.
_LEVEL = 1e-2

# Smallest noise, as a share of a round's 1/sqrt(beta), that weighs an observation against the patches: with less the
# system of a round is only harder to solve, since its data outweigh the patches 10 000 times already.
_EXACT = 1e-2


@final
@dataclass(frozen=True)
class EPLL:
    r"""Restores images by what a mixture of Gaussians knows of their overlapping patches P_i x of p x p pixels.

    Where pixels are noisy or missing (:meth:`denoise`, :meth:`inpaint`), a pixel is the mean of what is expected of it
    in each patch, given what that patch shows. Where pixels are mixed (:meth:`deblur`, :meth:`super_resolve`,
    :meth:`restore`), the image is one whose every patch is probable,

    .. math:: \min_x\ \frac{p^2}{2 \sigma^2} |Hx - y|^2 - \sum_i \log p(P_i x)

    by half-quadratic splitting: for rising beta, each patch becomes its most probable explanation,

    .. math:: k_i = \arg\max_k \pi_k N(P_i x;\ \mu_k, \Sigma_k + I/\beta), \qquad
              z_i = \mu_{k_i} + \Sigma_{k_i} (\Sigma_{k_i} + I/\beta)^{-1} (P_i x - \mu_{k_i})

    and the image becomes the best compromise of y and patches,
    :math:`(\tfrac{p^2}{\sigma^2} H'H + \beta \sum_i P_i' P_i)\, x = \tfrac{p^2}{\sigma^2} H'y + \beta \sum_i P_i' z_i`:
    pixel by pixel where H chooses pixels, by conjugate gradients otherwise.

    Parameters
    ----------
    prior : GaussianPrior, MixtureAutoencoder or fitted estimator
        Of p^2 features, or of c p^2 for images of c channels.
    patch_size : int
        p.
    removes_mean : bool
        Whether the prior describes patches less their mean (of each channel): then the mean is taken off before a
        patch is explained and put back afterwards. The means of the components count in either case.

    References
    ----------
    Zoran & Weiss (2011), "From learning models of natural image patches to whole image restoration", equations 2-5.

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> flat = GaussianPrior(
    ...     one.log(), 0 * one.repeat(4), 0 * one.repeat(1, 4), 1e-4 * one[None]
    ... )  # smooth patches
    >>> noisy = 0.5 + 0.1 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    >>> clean = EPLL(flat, patch_size=2).denoise(noisy, noise_std=0.1)
    >>> bool((clean - 0.5).square().mean() < 0.2 * (noisy - 0.5).square().mean())
    True
    """

    prior: GaussianPrior
    patch_size: int
    removes_mean: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "prior", GaussianPrior.of(self.prior))
        if self.patch_size < 1 or self.prior.n_features % self.patch_size**2:
            raise ValueError(
                f"The prior has {self.prior.n_features} features, expected a multiple of patch_size^2 = "
                f"{self.patch_size**2}: one for each pixel (and channel) of a patch."
            )

    @classmethod
    def of(cls, model: Any, patch_size: int | None = None, *, removes_mean: bool | None = None) -> Self:
        """Return the restorer with a fitted mixture (or its estimator) of square patches, of one channel or three.

        Whether the patches came less their mean is seen from the mixture, unless ``removes_mean`` says it.
        """
        prior = GaussianPrior.of(model)
        restorer = cls(prior, side_of(prior.n_features) if patch_size is None else patch_size)
        if restorer.patches.channels not in (1, 3):
            raise ValueError(
                f"The mixture has {prior.n_features} features, expected patch_size^2 = {restorer.patch_size**2} or "
                "three times as many, for patches in grey or in colour; EPLL(prior, patch_size) takes any channels."
            )
        return replace(
            restorer, removes_mean=restorer._knows_no_level() if removes_mean is None else removes_mean
        )

    @property
    def patches(self) -> Patches:
        """How patches are taken and put back."""
        return Patches(self.patch_size, self.prior.n_features // self.patch_size**2)

    # What can be wrong with an image

    def denoise(
        self,
        image: Tensor,
        noise_std: float,
        *,
        strength: float = STRENGTH,
        n_adaptations: int = ADAPTATIONS,
        on_round: OnRound | None = None,
    ) -> Tensor:
        r"""Return an image without its white noise.

        First the mixture comes to know the patches of this image (:func:`adapted_prior`). Then each pixel is the mean
        of what is expected of it in all patches P_i y, weighted by how well each of them is known,

        .. math:: x = \Big(\sum_i \tfrac1{v_i} P_i'P_i\Big)^{-1} \sum_i \tfrac1{v_i} P_i' E[P_i x\,|\,P_i y],
                  \qquad v_i = \tfrac1{p^2} \mathrm{tr\,Cov}[P_i x\,|\,P_i y]

        These are exact posteriors of the noise that there is. The rounds of :meth:`restore` treat what is left of it as
        white again, and leave 0.5 to 1 dB more of it in photographs. For speed, components below 1/200 of a patch's
        most probable one are left out of its expectations: half a per cent of the posterior.

        Parameters
        ----------
        image : Tensor, shape (height, width) or (channels, height, width)
            Floating, in the units that the prior was fitted in.
        noise_std : float
            Standard deviation of the noise, positive, in the same units.
        strength : float
            How many patches the prior counts for, for each component, when it is adapted.
        n_adaptations : int
            Steps of EM; 0 keeps the prior as it is.
        on_round : callable, optional
            Told after each pass over the patches how many there have been, and of how many: one more than adaptations.
        """
        self._checked(image)
        noise_std = as_variance("noise_std", noise_std, positive=True)
        if not 0 < strength < math.inf or n_adaptations < 0:
            raise ValueError(
                f"strength must be positive and finite and n_adaptations non-negative, got {strength!r} and "
                f"{n_adaptations!r}."
            )
        return without_noise(
            self.prior,
            self.patches,
            image,
            noise_std,
            removes_mean=self.removes_mean,
            strength=strength,
            n_adaptations=n_adaptations,
            on_round=on_round,
        )

    def inpaint(
        self,
        image: Tensor,
        mask: Tensor,
        noise_std: float = 0.0,
        *,
        start: Tensor | None = None,
        stds: Sequence[float] = FILLING,
        on_round: OnRound | None = None,
    ) -> Tensor:
        """Return an image whose missing pixels are filled in; those that are known stay as they are without noise.

        Each pixel is the mean of what is expected of it in all patches, given the known pixels of each, weighted by how
        well it is known; under the components that fit the patch best as it was filled in the round before. A patch has
        the level of the image's known pixels, give or take their spread.

        Parameters
        ----------
        image : Tensor, shape (height, width) or (channels, height, width)
            What it holds where the mask is false is not looked at.
        mask : Tensor, shape (height, width) or the image's
            bool, true where a pixel is known.
        noise_std : float
            Standard deviation of the noise of the known pixels.
        start : Tensor, shape of the image, optional
            By default the missing pixels start as the smoothest surface through the others.
        stds : sequence of float
            How far the patches of each round may be from what they are in the end.
        on_round : callable, optional
            Told after each round how many there have been, and of how many.
        """
        mask = checked_mask(mask, image.shape)
        if not bool(mask.any()):
            raise DataError("No pixel is known: there is nothing to restore from.")
        noise_std = as_variance("noise_std", noise_std)
        if not len(stds) or not all(0 < std < math.inf for std in stds):
            raise ValueError(f"stds must be positive and finite, at least one, got {stds!r}.")
        self._checked(torch.where(mask, image, 0.0))
        whole = smooth_fill(torch.where(mask, image, 0.0), mask) if start is None else start
        self._checked(whole)
        return filled_in(
            self.prior,
            self.patches,
            image,
            mask,
            whole,
            noise_std,
            removes_mean=self.removes_mean,
            stds=stds,
            on_round=on_round,
        )

    def deblur(
        self,
        image: Tensor,
        kernel: Tensor,
        noise_std: float,
        *,
        edges: Literal["circular", "unknown"] = "circular",
        stds: Sequence[float] = RESTORING,
        on_round: OnRound | None = None,
    ) -> Tensor:
        """Return an image without its blur, a convolution with ``kernel``, and its noise.

        Parameters
        ----------
        image : Tensor, shape (height, width) or (channels, height, width)
        kernel : Tensor or array, shape (a, b)
        noise_std : float
            Standard deviation of the noise, that of rounding included: what a blur hides is magnified until noise that
            was not allowed for covers the image. Of pixels that are all whole numbers, or 255ths, it counts as that of
            their rounding at least, 1/sqrt(12) of a step; where they were rounded otherwise, say so here.
        edges : {"circular", "unknown"}
            What lay beyond the edges when the image was blurred: its other side, or pixels that are unknown and are
            restored with it, as of a camera.
        stds : sequence of float
            1/sqrt(beta) of each round.
        on_round : callable, optional
            As in :meth:`denoise`.
        """
        if edges not in ("circular", "unknown"):
            raise ValueError(f'edges must be "circular" or "unknown", got {edges!r}.')
        self._checked(image)
        kernel = as_tensor("A kernel", kernel)
        noise_std = at_least_rounding(noise_std, image)
        shape = image.shape
        if edges == "circular":
            return self.restore(
                image.flatten(), Blur(kernel, tuple(shape)), noise_std, image, stds=stds, on_round=on_round
            )
        # A pixel sees (a, b) pixels around it, of which those before it end at the kernel's middle.
        (a, b), (height, width) = kernel.shape, shape[-2:]
        above, left = (a - 1) // 2, (b - 1) // 2
        padding = (left, b - 1 - left, above, a - 1 - above)
        start = pad(image.reshape(1, -1, height, width), padding, mode="replicate")[0]
        start = start.reshape(*shape[:-2], *start.shape[-2:])
        inner = torch.zeros(start.shape[-2:], dtype=torch.bool)
        inner[above : above + height, left : left + width] = True
        operator = Composition((inpainting(inner, prod(shape[:-2])), Blur(kernel, tuple(start.shape))))
        whole = self.restore(image.flatten(), operator, noise_std, start, stds=stds, on_round=on_round)
        return whole[..., above : above + height, left : left + width]

    def super_resolve(
        self,
        image: Tensor,
        factor: int,
        noise_std: float = 0.0,
        *,
        stds: Sequence[float] = RESTORING,
        on_round: OnRound | None = None,
    ) -> Tensor:
        """Return the image, ``factor`` times as wide and high, of whose blocks a smaller one holds the means.

        The noise counts as that of rounding at least, as in :meth:`deblur`.
        """
        require_image(image)
        require_factor(factor)
        noise_std = at_least_rounding(noise_std, image)
        height, width = image.shape[-2] * factor, image.shape[-1] * factor
        operator = Downsampling(factor, (*image.shape[:-2], height, width))
        start = interpolate(
            image.reshape(1, -1, *image.shape[-2:]), size=(height, width), mode="bicubic"
        ).reshape(operator.image_shape)
        return self.restore(image.flatten(), operator, noise_std, start, stds=stds, on_round=on_round)

    def restore(
        self,
        y: Tensor,
        operator: Operator,
        noise_std: float,
        start: Tensor,
        *,
        stds: Sequence[float] = RESTORING,
        on_round: OnRound | None = None,
    ) -> Tensor:
        """Return the image that an operator and noise turned into y.

        Parameters
        ----------
        y : Tensor, shape (m,)
        operator : Operator, shape (m, d)
            It sees the flattened image.
        noise_std : float
            Standard deviation of the noise, in the units of the pixels. In each round it counts as one per cent of
            1/sqrt(beta) at least, but what rounding added to y belongs to it too; chosen pixels (``Rows``) without
            noise are kept as they are.
        start : Tensor, shape (height, width) or (channels, height, width)
            An image of d pixels to begin with.
        stds : sequence of float
            1/sqrt(beta) of each round, falling, in the units of the pixels.
        on_round : callable, optional
            As in :meth:`denoise`.
        """
        self._checked(start)
        y = as_tensor("y", y)
        if y.ndim != 1:
            raise DataError(
                f"y has shape {tuple(y.shape)}, expected (n_measurements,): an image that was measured is given as "
                "y.flatten()."
            )
        if operator.shape != (y.numel(), start.numel()):
            raise DataError(
                f"The operator has shape {operator.shape}, expected ({y.numel()}, {start.numel()}): the measurements, "
                f"of shape {tuple(y.shape)}, and the pixels of the image, {tuple(start.shape)}."
            )
        if not bool(torch.isfinite(y).all()):
            raise DataError(
                "y contains NaN or infinity; leave what was not measured out of the operator (Rows)."
            )
        noise_std = as_variance("noise_std", noise_std)
        if not len(stds) or not all(0 < std < math.inf for std in stds):
            raise ValueError(f"stds must be positive and finite, at least one, got {stds!r}.")
        return self._solve(start, y, operator, noise_std, stds, on_round)

    # The two steps

    def _solve(
        self,
        image: Tensor,
        y: Tensor,
        operator: Operator,
        noise_std: float,
        stds: Sequence[float],
        on_round: OnRound | None,
    ) -> Tensor:
        shape, x = image.shape, self.patches.stacked(image)
        counts = self.patches.put(torch.ones_like(self.patches.take(x)), x.shape)
        covariances = self.prior.covariances()
        kept = operator.columns if noise_std == 0 and isinstance(operator, Rows) else None
        for done, std in enumerate(stds, 1):
            patches = self.patches.take(x)
            total = self.patches.put(self._explained(patches, covariances, std**2), x.shape)
            beta, weight = 1 / std**2, self.patch_size**2 / max(noise_std, _EXACT * std) ** 2
            if kept is not None:
                x = total / counts
                x.view(-1)[kept] = y.to(x)
            elif isinstance(operator, Rows):
                seen, times = (
                    operator.adjoint(v[None]).view_as(x) for v in (y.to(x), torch.ones_like(y).to(x))
                )
                x = (weight * seen + beta * total) / (weight * times + beta * counts)
            else:
                x = compromise(x, y, operator, weight, beta * counts, beta * total)
            if on_round is not None:
                on_round(done, len(stds))
        return x.reshape(shape)

    def _explained(self, patches: Tensor, covariances: Tensor, variance: float) -> Tensor:
        """Return each patch as its most probable component explains it, noise of some variance added."""
        prior = self.prior
        noisy = covariances.clone()
        noisy.diagonal(dim1=1, dim2=2).add_(variance)
        white, _ = whitening_factors(noisy)
        gains = (covariances @ white.mT @ white).to(patches)  # (k, d, d)
        constants = (prior.log_weights[prior.used] + log_det_whitener(white)).to(patches)
        means = (prior.means + prior.shift)[prior.used].to(patches)
        white = white.to(patches)
        result = torch.empty_like(patches)
        for at in range(0, len(patches), _BLOCK):
            block = patches[at : at + _BLOCK]
            centre = self._centre(block)
            block = block - centre
            best = rowwise_argmax(constants - 0.5 * whitened_square_norms(block, means, white))
            for k in torch.unique(best).tolist():
                chosen = best == k
                block[chosen] = means[k] + (block[chosen] - means[k]) @ gains[k].T
            result[at : at + _BLOCK] = block + centre
        return result

    def _knows_no_level(self) -> bool:
        """Return whether the mean of (each channel of) a patch is nearly always zero under the prior."""
        weights = self.prior.log_weights[self.prior.used].exp()
        means = (self.prior.means + self.prior.shift)[self.prior.used]
        moments = self.prior.covariances() + means[:, :, None] * means[:, None, :]
        second = torch.einsum("k,kde->de", weights, moments)
        mean = self.patches.levels(second) / self.patch_size**2
        levels = torch.einsum("cd,de,ce->c", mean, second, mean)
        return bool(levels.mean() < _LEVEL * second.diagonal().mean())

    def _centre(self, rows: Tensor) -> Tensor | float:
        return self.patches.centre(rows) if self.removes_mean else 0.0

    def _checked(self, image: Any) -> None:
        require_image(image)
        if min(image.shape[-2:]) < self.patch_size:
            raise DataError(
                f"The image, {tuple(image.shape)}, is smaller than a patch of {self.patch_size} pixels a side."
            )
        channels = self.prior.n_features // self.patch_size**2
        if channels > 1 and (image.ndim != 3 or len(image) != channels):
            raise DataError(
                f"The patches have {channels} channels, the image the shape {tuple(image.shape)}, expected "
                f"({channels}, height, width)."
            )


__all__ = ["ADAPTATIONS", "EPLL", "FILLING", "RESTORING", "STRENGTH"]
