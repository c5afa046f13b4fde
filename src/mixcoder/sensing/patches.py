"""Overlapping patches of an image: taken, put back, and averaged by how well each is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import fold, unfold


@dataclass(frozen=True)
class Patches:
    """All patches of ``size`` x ``size`` pixels and of some channels.

    A stack of images has shape (images, channels, height, width); its patches are rows, shape (n, channels size^2).

    Parameters
    ----------
    size : int
    channels : int
        Of a patch; an image of more channels than that is a stack of images.

    Examples
    --------
    >>> patches, image = Patches(2, 1), torch.arange(6.0).reshape(2, 3)
    >>> rows = patches.take(patches.stacked(image))
    >>> rows
    tensor([[0., 1., 3., 4.],
            [1., 2., 4., 5.]])
    >>> patches.averaged(rows, torch.ones_like(rows), patches.stacked(image).shape)
    tensor([[[[0., 1., 2.],
              [3., 4., 5.]]]])
    """

    size: int
    channels: int

    def stacked(self, image: Tensor) -> Tensor:
        """Return an image of shape (height, width) or (channels, height, width) as a stack."""
        x = image.reshape(-1, *image.shape[-2:])
        return x[None] if len(x) == self.channels else x[:, None]

    def take(self, x: Tensor) -> Tensor:
        """Return all patches of a stack."""
        return unfold(x, self.size).mT.flatten(0, 1).contiguous()

    def put(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Return the sum of patches at their places, the adjoint of taking them."""
        places = rows.unflatten(0, (shape[0], -1)).mT
        return fold(places, shape[-2:], self.size)

    def averaged(self, rows: Tensor, variances: Tensor, shape: torch.Size) -> Tensor:
        r"""Return the mean of patches at their places, each entry weighted by its certainty, one over its variance."""
        certainty = 1 / variances.expand_as(rows)
        return self.put(certainty * rows, shape) / self.put(certainty, shape)

    def centre(self, rows: Tensor) -> Tensor:
        """Return the mean of each channel of each patch, for each of its pixels."""
        channels = rows.unflatten(1, (-1, self.size**2))
        return channels.mean(2, keepdim=True).expand_as(channels).flatten(1)

    def levels(self, like: Tensor) -> Tensor:
        """Return which entries of a row belong to each channel, as ones, shape (channels, channels size^2)."""
        one = torch.eye(self.channels, dtype=like.dtype, device=like.device)
        return one.repeat_interleave(self.size**2, 1)


__all__ = ["Patches"]
