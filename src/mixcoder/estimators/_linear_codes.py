"""Codes of mixtures of planes: a component, and a point within its plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixcoder._typing import HardCode
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components.observed import observed_parts
from mixcoder.errors import DataError
from mixcoder.estimators._lazy import lazily
from mixcoder.estimators._validation import like_input, numbers_of
from mixcoder.estimators.base import AutoencoderEstimator
from mixcoder.ops import low_rank
from mixcoder.sources import Source, TensorSource

_BLOCK = 1 << 13


class LinearCodes(AutoencoderEstimator):
    """What is asked of a fitted mixture whose components are planes; its parameters have means and loadings."""

    @property
    def means_(self) -> Any:
        """Means of the components, shape (n_components, n_features)."""
        return self._attribute(self._fitted().prototypes())

    @property
    def n_latent_(self) -> Any:
        """Dimension of the plane of each component, int64, shape (n_components,)."""
        model = self._fitted()
        family: Any = model.family
        has_axis = low_rank.axis_mask(family.n_latent, model.n_components, model.device)
        if has_axis is None:
            ranks = torch.full((model.n_components,), int(family.n_latent))
        else:
            ranks = has_axis.sum(1)
        return ranks if self._from_torch else ranks.numpy(force=True)

    def encode_latent(self, X: Any, *, rule: str = "mean") -> tuple[Any, Any]:
        r"""Return the code (component, z) of each row.

        Parameters
        ----------
        X : array-like or Source, shape (n_samples, n_features)
        rule : {"mean", "posterior", "nearest"}
            "mean": the most probable component and its latent mean, :math:`E[z|x,k]`. "posterior" and "nearest": the
            component that ``reconstruct`` takes by that rule, and the point of its plane that is nearest to the row,
            :math:`z = (W_k' \Psi_k^{-1} W_k)^{-1} W_k' \Psi_k^{-1} (x - \mu_k)`, so that ``decode_latent`` of the code
            is the reconstruction.

        Returns
        -------
        component : array, int64, shape (n_samples,)
        z : array, shape (n_samples, n_latent)
            Of a component of lower rank than others with zeros behind.
        """
        if rule == "mean":
            component, z = self._latent_codes(*self._asked_rows(X))
        else:
            component, z = self._plane_codes(*self._asked_rows(X), rule)
        return like_input(component, X), like_input(z, X)

    def decode_latent(self, component: Any, z: Any) -> Any:
        r"""Return the rows of codes (component, z), :math:`\mu_k + W_k z`, shape (n_samples, n_features).

        Parameters
        ----------
        component : array-like of int, shape (n_samples,)
        z : array-like, shape (n_samples, n_latent)
        """
        model = self._fitted()
        index, latent = self._code(component), numbers_of(z, "z").to(model.device)
        if isinstance(index, Tensor):
            raise DataError("component holds component numbers, of shape (n_samples,).")
        n, q = len(index.index), self._code_width(model)
        if latent.shape != (n, q):
            raise DataError(
                f"z has shape {tuple(latent.shape)}, expected ({n}, {q}): one latent point a code."
            )
        family: Any = model.family
        latent = latent / self._latent_unit(model)
        rows = model.frame.undo(family.decode_latent(model.params, index.index.to(model.device), latent))
        return like_input(rows.to(self._dtype()), z)

    @lazily
    def transform(self, X: Any) -> Any:
        """Return the code of each row as one array: component, then z, shape (n_samples, 1 + n_latent).

        That of ``encode_latent``, in the dtype of the rows.
        """
        model, x = self._asked(X)
        component, z = self._latent_codes(model, TensorSource(x))
        return like_input(torch.cat([component[:, None].to(z.dtype), z], 1), X)

    def inverse_transform(self, X: Any) -> Any:
        """Return the rows of codes as ``transform`` gives them, shape (n_samples, n_features)."""
        width = 1 + self._code_width(self._fitted())
        codes = numbers_of(X, "X")
        if codes.ndim != 2 or codes.shape[1] != width:
            raise DataError(
                f"X has shape {tuple(codes.shape)}, expected (n_samples, {width}): a component number and a latent "
                "point a row, as transform gives them."
            )
        return like_input(self.decode_latent(codes[:, 0], codes[:, 1:]), X)

    @property
    def _n_features_out(self) -> int:
        return 1 + self._code_width(self._fitted())

    def _latent_codes(self, model: MixtureAutoencoder, source: Source) -> tuple[Tensor, Tensor]:
        component = model.assign(source)
        shape = (source.n_rows, self._code_width(model))
        z = torch.empty(shape, dtype=source.dtype, device=source.device)
        for block in source.blocks(_BLOCK):
            rows = slice(block.start, block.stop)
            z[rows] = (_latent_of(model, block.x, component[rows]) * self._latent_unit(model)).to(z.dtype)
        return component, z

    def _plane_codes(self, model: MixtureAutoencoder, source: Source, rule: str) -> tuple[Tensor, Tensor]:
        component = torch.empty(source.n_rows, dtype=torch.int64, device=source.device)
        shape = (source.n_rows, self._code_width(model))
        z = torch.empty(shape, dtype=source.dtype, device=source.device)
        for block in source.blocks(_BLOCK):
            rows = slice(block.start, block.stop)
            component[rows], points = plane_codes(model, block.x, rule)
            z[rows] = (points * self._latent_unit(model)).to(z.dtype)
        return component, z

    def _code_width(self, model: MixtureAutoencoder) -> int:
        params: Any = model.params
        return int(params.loadings.shape[2])

    def _latent_unit(self, model: MixtureAutoencoder) -> float:
        """Return what z in working coordinates is multiplied by."""
        del model
        return 1.0


def noise_of(params: Any) -> Tensor:
    """Return the noise variances, shape (k, d) or (k, 1); ones where a family has none of its own."""
    noise: Tensor | None = getattr(params, "noise_variances", None)
    if noise is None:
        return params.means.new_ones(params.n_components, 1)
    return noise if noise.ndim == 2 else noise[:, None]


def projected(model: MixtureAutoencoder, x: Tensor, rule: str) -> Tensor:
    """Return the point of a component's plane that is nearest to each row, as by ``plane_codes``, shape (n, d)."""
    component, z = plane_codes(model, x, rule)
    family: Any = model.family
    return model.frame.undo(family.decode_latent(model.params, component, z))


def plane_codes(model: MixtureAutoencoder, x: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Return components, shape (n,), and the points of their planes nearest to each row in units of the noise, (n, q).

    Parameters
    ----------
    rule : {"posterior", "nearest"}
        Whether a row's component is the most probable one, or the one that leaves the smallest squared error.
    """
    if rule not in ("posterior", "nearest"):
        raise ValueError(f"rule must be 'posterior' or 'nearest', got {rule!r}.")
    params: Any = model.params
    # What a missing entry is taken for depends on the component, by either rule.
    component = model.assign(x) if rule == "posterior" or bool(x.isnan().any()) else None
    rows = model.frame.apply(x.double()) if component is None else _whole_rows(model, x, component)
    if rule == "posterior":
        assert component is not None
        z = rows.new_empty(len(rows), params.loadings.shape[2])
        for k in torch.unique(component).tolist():
            chosen = component == k
            z[chosen] = _on_plane(model, rows[chosen], k)
        return component, z
    best = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=rows.device)
    nearest = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    z = rows.new_empty(len(rows), params.loadings.shape[2])
    for k in range(model.n_components):
        found = _on_plane(model, rows, k)
        # In units of the rows: that is what a distortion counts.
        gaps = rows - params.means[k] - found @ params.loadings[k].T
        left = (gaps / model.frame.scale).square().sum(1)
        closer = left < best
        nearest[closer], z[closer], best = k, found[closer], torch.minimum(best, left)
    return nearest, z


def _latent_of(model: MixtureAutoencoder, x: Tensor, component: Tensor) -> Tensor:
    """Return E[z | x_n, k_n] of each row, shape (n, q)."""
    params: Any = model.params
    family: Any = model.family
    projections = family.projections(params)
    rows = _whole_rows(model, x, component)
    z = rows.new_empty(len(rows), projections.shape[1])
    for k in torch.unique(component).tolist():
        chosen = component == k
        z[chosen] = (rows[chosen] - params.means[k]) @ projections[k].T
    return z


def _whole_rows(model: MixtureAutoencoder, x: Tensor, component: Tensor) -> Tensor:
    """Return rows in working coordinates, missing entries as their component expects them, shape (n, d).

    The latent mean is linear in the row: that of the expected row is E[z | x_a, k].
    """
    rows = model.frame.apply(x.double())
    for index, seen in observed_parts(model.family, model.params, rows) if bool(rows.isnan().any()) else ():
        rows[index] = seen.expected(HardCode(component[index], model.n_components))
    return rows


def _on_plane(model: MixtureAutoencoder, rows: Tensor, k: int) -> Tensor:
    """Return the points of one component's plane nearest to rows in working coordinates, shape (n, q)."""
    params: Any = model.params
    stds = noise_of(params)[k].sqrt()
    # Least squares by singular vectors: loadings may be short of rank.
    axes, sizes, turn = torch.linalg.svd(params.loadings[k] / stds[:, None], full_matrices=False)
    kept = sizes > 1e-12 * sizes.amax()
    inverse = (axes[:, kept] / sizes[kept]) @ turn[kept]  # (d, q)
    return ((rows - params.means[k]) / stds) @ inverse


__all__ = ["LinearCodes", "noise_of", "plane_codes", "projected"]
