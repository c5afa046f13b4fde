"""Photographs restored with a mixture of patches: expected patch log-likelihood (EPLL)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Self, final

import torch
from torch import Tensor
from torch.nn.functional import fold, unfold

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.encoders.argmax import rowwise_argmax
from mixcoder.errors import DataError
from mixcoder.ops.gaussian import log_det_whitener, whitened_square_norms, whitening_factors
from mixcoder.sensing.images import Blur, Downsampling
from mixcoder.sensing.operators import Operator, Rows
from mixcoder.sensing.prior import GaussianPrior

# Patches in a block: their distances to a component stay in cache.
_BLOCK = 1 << 13

# Squared distances 1/beta between patches and image, in units of the noise variance, where the image is only noisy.
_DENOISING = (1.0, 4.0, 8.0, 16.0, 32.0)

# Standard deviations 1/sqrt(beta) otherwise, for pixels in [0, 1].
_RESTORING = (0.14, 0.1, 0.07, 0.05, 0.035, 0.025, 0.018, 0.012)

# Smallest noise, as a share of a round's 1/sqrt(beta), that weighs an observation against the patches: with less the
# system of a round is only harder to solve, since its data outweigh the patches 10 000 times already.
_EXACT = 1e-2


@final
@dataclass(frozen=True)
class EPLL:
    r"""Restores images whose every patch is probable under a mixture of Gaussians.

    .. math:: \min_x\ \frac{p^2}{2 \sigma^2} |Hx - y|^2 - \sum_i \log p(P_i x)

    over all overlapping patches P_i x of p x p pixels, by half-quadratic splitting: for rising beta, each patch becomes
    its most probable explanation,

    .. math:: k_i = \arg\max_k \pi_k N(P_i x;\ \mu_k, \Sigma_k + I/\beta), \qquad
              z_i = \mu_{k_i} + \Sigma_{k_i} (\Sigma_{k_i} + I/\beta)^{-1} (P_i x - \mu_{k_i})

    and the image becomes the best compromise of y and patches,
    :math:`(\tfrac{p^2}{\sigma^2} H'H + \beta \sum_i P_i' P_i)\, x = \tfrac{p^2}{\sigma^2} H'y + \beta \sum_i P_i' z_i`:
    pixel by pixel where H chooses pixels, by conjugate gradients otherwise.

    Parameters
    ----------
    prior : GaussianPrior
        Of p^2 features, or of c p^2 for images of c channels.
    patch_size : int
        p.
    removes_mean : bool
        Whether the prior describes patches less their mean (of each channel): then the mean is taken off before a
        patch is explained and put back afterwards. The means of the components count in either case.

    References
    ----------
    Zoran & Weiss (2011), "From learning models of natural image patches to whole image restoration", equations 2-5.
    """

    prior: GaussianPrior
    patch_size: int
    removes_mean: bool = True

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.prior.n_features % self.patch_size**2:
            raise ValueError(
                f"The prior has {self.prior.n_features} features, expected a multiple of patch_size^2 = "
                f"{self.patch_size**2}: one for each pixel (and channel) of a patch."
            )

    @classmethod
    def of(
        cls, model: MixtureAutoencoder, patch_size: int | None = None, *, removes_mean: bool = True
    ) -> Self:
        """Return the restorer with a fitted patch mixture, of square patches of one channel unless said otherwise."""
        size = math.isqrt(model.n_features) if patch_size is None else patch_size
        return cls(GaussianPrior.of(model), size, removes_mean)

    # What can be wrong with an image

    def denoise(self, image: Tensor, noise_std: float) -> Tensor:
        """Return an image without its white noise.

        Parameters
        ----------
        image : Tensor, shape (height, width) or (channels, height, width)
            Floating, in the units that the prior was fitted in.
        noise_std : float
            Standard deviation of the noise, positive, in the same units.
        """
        self._checked(image)
        if not 0 < noise_std < math.inf:
            raise ValueError(f"noise_std must be positive and finite, got {noise_std!r}.")
        stds = [noise_std / math.sqrt(level) for level in _DENOISING]
        return self._solve(image, image.flatten(), None, noise_std, stds)

    def inpaint(
        self,
        image: Tensor,
        mask: Tensor,
        noise_std: float = 0.0,
        *,
        start: Tensor | None = None,
        stds: Sequence[float] = _RESTORING,
    ) -> Tensor:
        """Return an image whose missing pixels are filled in; those that are known stay as they are without noise.

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
            1/sqrt(beta) of each round.
        """
        mask = mask.expand(image.shape)
        known = mask.flatten().nonzero()[:, 0]
        if not len(known):
            raise DataError("No pixel is known: there is nothing to restore from.")
        operator = Rows(known, image.numel())
        y = image.flatten()[known]
        filled = smooth_fill(torch.where(mask, image, 0.0), mask) if start is None else start
        return self.restore(y, operator, noise_std, filled, stds=stds)

    def deblur(
        self, image: Tensor, kernel: Tensor, noise_std: float, *, stds: Sequence[float] = _RESTORING
    ) -> Tensor:
        """Return an image without its blur, a circular convolution with ``kernel``, and its noise."""
        operator = Blur(kernel, tuple(image.shape))
        return self.restore(image.flatten(), operator, noise_std, image, stds=stds)

    def super_resolve(
        self, image: Tensor, factor: int, noise_std: float = 0.0, *, stds: Sequence[float] = _RESTORING
    ) -> Tensor:
        """Return the image, ``factor`` times as wide and high, of whose blocks a smaller one holds the means."""
        height, width = image.shape[-2] * factor, image.shape[-1] * factor
        operator = Downsampling(factor, (*image.shape[:-2], height, width))
        start = torch.nn.functional.interpolate(
            image.reshape(1, -1, *image.shape[-2:]), size=(height, width), mode="bicubic"
        )
        return self.restore(
            image.flatten(), operator, noise_std, start.reshape(operator.image_shape), stds=stds
        )

    def restore(
        self,
        y: Tensor,
        operator: Operator,
        noise_std: float,
        start: Tensor,
        *,
        stds: Sequence[float] = _RESTORING,
    ) -> Tensor:
        """Return the image that an operator and noise turned into y.

        Parameters
        ----------
        y : Tensor, shape (m,)
        operator : Operator, shape (m, d)
            It sees the flattened image.
        noise_std : float
            Standard deviation of the noise, in the units of the pixels. In each round it counts as one per cent of
            1/sqrt(beta) at least; but chosen pixels (``Rows``) without noise are kept as they are.
        start : Tensor, shape (height, width) or (channels, height, width)
            An image of d pixels to begin with.
        stds : sequence of float
            1/sqrt(beta) of each round, falling, in the units of the pixels.
        """
        self._checked(start)
        if operator.shape != (y.numel(), start.numel()) or y.ndim != 1:
            raise DataError(
                f"The operator has shape {operator.shape}, expected ({y.numel()}, {start.numel()}): the measurements, "
                f"of shape {tuple(y.shape)}, and the pixels of the image, {tuple(start.shape)}."
            )
        if not bool(torch.isfinite(y).all()):
            raise DataError(
                "y contains NaN or infinity; leave what was not measured out of the operator (Rows)."
            )
        if not 0 <= noise_std < math.inf:
            raise ValueError(f"noise_std must be non-negative and finite, got {noise_std!r}.")
        if not len(stds) or not all(0 < std < math.inf for std in stds):
            raise ValueError(f"stds must be positive and finite, at least one, got {stds!r}.")
        return self._solve(start, y, operator, noise_std, stds)

    # The two steps

    def _solve(
        self, image: Tensor, y: Tensor, operator: Operator | None, noise_std: float, stds: Sequence[float]
    ) -> Tensor:
        shape, prior = image.shape, self.prior
        x = image.reshape(-1, *shape[-2:])
        whole = prior.n_features == len(x) * self.patch_size**2
        x = x[None] if whole else x[:, None]  # (images, channels, height, width)
        counts = self._put(torch.ones_like(self._patches(x)), x.shape)
        covariances = torch.stack(
            [torch.diag(prior.spread(k)) if prior.is_diagonal else prior.spread(k) for k in prior.used]
        )
        if prior.n_latent:
            covariances = covariances + torch.stack(
                [prior.loading(k) @ prior.loading(k).T for k in prior.used]
            )
        exact = noise_std == 0 and isinstance(operator, Rows)
        for std in stds:
            patches = self._patches(x)
            total = self._put(self._explained(patches, covariances, std**2), x.shape)
            beta, weight = 1 / std**2, self.patch_size**2 / max(noise_std, _EXACT * std) ** 2
            if exact:
                x = total / counts
                x.view(-1)[operator.columns] = y.to(x)  # type: ignore[union-attr]
            elif operator is None:
                x = (weight * y.view_as(x) + beta * total) / (weight + beta * counts)
            elif isinstance(operator, Rows):
                seen, times = (
                    operator.adjoint(v[None]).view_as(x) for v in (y.to(x), torch.ones_like(y).to(x))
                )
                x = (weight * seen + beta * total) / (weight * times + beta * counts)
            else:
                x = _compromise(x, y, operator, weight, beta * counts, beta * total)
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

    def _centre(self, patches: Tensor) -> Tensor | float:
        """Return the mean of each channel of each patch, for each of its pixels."""
        if not self.removes_mean:
            return 0.0
        channels = patches.unflatten(1, (-1, self.patch_size**2))
        return channels.mean(2, keepdim=True).expand_as(channels).flatten(1)

    def _patches(self, x: Tensor) -> Tensor:
        """Return all patches, shape (n, c p^2)."""
        return unfold(x, self.patch_size).mT.flatten(0, 1).contiguous()

    def _put(self, patches: Tensor, shape: torch.Size) -> Tensor:
        """Return the sum of patches at their places, the adjoint of taking them."""
        places = patches.unflatten(0, (shape[0], -1)).mT
        return fold(places, shape[-2:], self.patch_size)

    def _checked(self, image: Tensor) -> None:
        if image.ndim not in (2, 3) or not image.is_floating_point():
            raise DataError(
                f"An image is floating of shape (height, width) or (channels, height, width), got {image.dtype} of "
                f"shape {tuple(image.shape)}."
            )
        if not bool(torch.isfinite(image).all()):
            raise DataError("The image contains NaN or infinity; inpaint takes a mask of what is known.")
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


def smooth_fill(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image with its unknown pixels on the smoothest (harmonic) surface through those around them."""
    unknown = (~mask).to(image)

    def roughness(x: Tensor) -> Tensor:
        """Return the gradient of the sum of squared differences between neighbours, at the unknown pixels."""
        down, across = torch.diff(x, dim=-2), torch.diff(x, dim=-1)
        total = torch.zeros_like(x)
        total[..., 1:, :] += down
        total[..., :-1, :] -= down
        total[..., :, 1:] += across
        total[..., :, :-1] -= across
        return unknown * total

    start = unknown * image[mask].mean()
    known = torch.where(mask, image, 0.0)
    return known + _conjugate_gradients(lambda x: roughness(unknown * x), -roughness(known), start, 500)


def _compromise(
    x: Tensor, y: Tensor, operator: Operator, weight: float, precision: Tensor, pull: Tensor
) -> Tensor:
    """Return the solution of (w H'H + diag(precision)) x = w H'y + pull, found in float64."""
    # What the patches pull at is small beside the data where the noise is: float32 would not see it.
    wide, y = x.double(), y.double()
    precision, pull = precision.double(), pull.double()

    def system(v: Tensor) -> Tensor:
        seen = operator.adjoint(operator.apply(v.reshape(1, prod(v.shape)))).view_as(v)
        return weight * seen + precision * v

    right = weight * operator.adjoint(y[None]).view_as(wide) + pull
    return _conjugate_gradients(system, right, wide, 200).to(x)


def _conjugate_gradients(
    system: Callable[[Tensor], Tensor], right: Tensor, x: Tensor, n_steps: int
) -> Tensor:
    """Return x with system(x) = right, symmetric positive definite, to 1e-8 of the right side or its rounding."""
    residual = right - system(x)
    direction, norm = residual.clone(), residual.square().sum()
    enough = max(1e-8, torch.finfo(x.dtype).eps) ** 2 * right.square().sum()
    for _ in range(n_steps):
        if norm <= enough or norm == 0:
            break
        image = system(direction)
        step = norm / (direction * image).sum()
        x = x + step * direction
        residual = residual - step * image
        last, norm = norm, residual.square().sum()
        direction = residual + norm / last * direction
    return x


__all__ = ["EPLL", "smooth_fill"]
