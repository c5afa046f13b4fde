"""One pass of a low rank family with round noise over rows of many features: two products, and no d x d matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.base import Family, Kernel, PassSetting
from mixcoder.ops.gaussian import EMPTY, safe_means
from mixcoder.ops.products import product
from mixcoder.ops.workspace import Workspace
from mixcoder.statistics import Statistics

# A responsibility below this changes no sum of a block beyond the rounding of its largest term.
_NEGLIGIBLE = {torch.float32: 1e-9, torch.float64: 1e-18}

# Where rows belong to fewer of the components than this share, a product per component over its own rows is less
# work than one over all.
_SPARSE = 0.25


@dataclass(frozen=True)
class LatentMoments(Statistics):
    """The sums of a low rank family with round noise; r is the (weighted) code, t the latent axes.

    Parameters
    ----------
    counts : Tensor, shape (k,)
        Sum of r.
    sums : Tensor, shape (k, d)
        Sum of r x.
    squares : Tensor, shape (k,)
        Sum of r |x|^2.
    latent_sums : Tensor, shape (k, q)
        Sum of r E[t].
    latent_products : Tensor, shape (k, q, q)
        Sum of r E[t t'].
    cross_products : Tensor, shape (k, q, d)
        Sum of r E[t] x'.
    pooled : Tensor, shape (g, 1), optional
        Sum of |x|^2, which no code weighs, where components share their noise.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    latent_sums: Tensor
    latent_products: Tensor
    cross_products: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class RoundPlanes:
    r"""Densities of planes with round noise.

    .. math:: -2\log p(x|k) = |x-\mu_k|^2/s_k^2 - |B_k(x-\mu_k)|^2 + c_k

    Parameters
    ----------
    noise_variances : Tensor, shape (k,)
        s^2.
    axes : Tensor, shape (k, q, d)
        B.
    constants : Tensor, shape (k,)
        c.
    """

    noise_variances: Tensor
    axes: Tensor
    constants: Tensor


@dataclass(frozen=True)
class LatentKernel(Kernel[Any, LatentMoments]):
    r"""The pass through latent axes.

    .. math:: t_{nk} = B_k(x_n-\mu_k), \qquad -2\log p(x|k) = |x-\mu_k|^2/s_k^2 - |t|^2 + c_k,

    so that one product of the rows with all B_k and mu_k gives every log-density, and one product of the t with the
    rows every sum: 4 n k d q operations.

    Parameters
    ----------
    directions : Tensor, shape (k + k q, d)
        The rows mu_k / s_k^2, then the rows of all B_k.
    shifts : Tensor, shape (k q,)
        B_k mu_k.
    halves : Tensor, shape (k,)
        1 / (2 s_k^2).
    offsets : Tensor, shape (k,)
        What is left of the log-joint.
    unit : bool
        Whether t has variance one given x, or is known.
    """

    directions: Tensor
    shifts: Tensor
    halves: Tensor
    offsets: Tensor
    unit: bool

    @classmethod
    def of(
        cls,
        family: Family[Any, Any],
        params: Any,
        planes: RoundPlanes,
        log_weights: Tensor,
        setting: PassSetting,
        dtype: torch.dtype,
        *,
        unit: bool,
    ) -> LatentKernel:
        """Return the pass of given parameters in a dtype."""
        means, noise = params.means, planes.noise_variances[:, None]
        directions = torch.cat([means / noise, planes.axes.flatten(0, 1)])
        shifts = (planes.axes @ means[:, :, None]).flatten()
        offsets = log_weights - 0.5 * (planes.constants + (means.square() / noise).sum(1))
        return cls(
            family,
            params,
            log_weights,
            dtype,
            setting.workspace,
            directions.to(dtype),
            shifts.to(dtype),
            0.5 / planes.noise_variances,
            offsets,
            unit,
        )

    @staticmethod
    def rounding(means: Tensor, reach: Tensor, noise_variances: Tensor, dtype: torch.dtype) -> float:
        """Return the error in nats to expect of the arithmetic in a dtype, on a typical row of each component.

        A row of another component is far below it in log-density, and errs by the same share. Roundings of either
        sign add up like their root mean square (Higham & Mary 2019): those of the products to about a quarter of a
        unit of the square norm that the axes take away from (measured on images).

        Parameters
        ----------
        reach : Tensor, shape (k,)
            Mean square distance of a component's rows from its mean, the noise left out.
        """
        norms = 2 * means.square().sum(1) + reach
        return 0.25 * 0.5 * torch.finfo(dtype).eps * float((norms / noise_variances).amax())

    def log_joint(self, rows: Tensor) -> Tensor:
        """Return log pi_k + log p(x_n | k), shape (n, k)."""
        n, k = len(rows), len(self.halves)
        scores, latent, norms = self._project(rows)
        squares = self.workspace.take("latent squares", n, latent.shape[1], self.dtype, rows.device)
        torch.mul(latent, latent, out=squares)
        out = self.workspace.take("latent scores", n, k, self.dtype, rows.device)
        torch.sum(squares.view(n, k, -1), 2, out=out)
        # Three large numbers whose difference is small: they meet in float64.
        exact = out.double().mul_(0.5).add_(scores).add_(self.offsets)
        torch.addcmul(exact, norms[:, None], self.halves[None], value=-1.0, out=exact)
        return exact if self.dtype == torch.float64 else out.copy_(exact)

    def statistics(self, rows: Tensor, code: Code, weights: Tensor | None) -> LatentMoments:
        """Return the sums of the block."""
        # The axes of the block that has just been encoded are still there, once.
        kept = self.workspace.kept("latent")
        if kept is not None and kept[0] is self and kept[1] is rows:
            _, latent, norms = kept[2]
        else:
            _, latent, norms = self._project(rows)
        self.workspace.keep("latent", None)
        if isinstance(code, Tensor) and weights is not None:
            code = code.mul_(weights.to(code.dtype)[:, None])
        return latent_moments(rows, latent, norms, code, weights, unit=self.unit)

    def _project(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mu_k'x / s_k^2, shape (n, k), the axes t, shape (n, k q), and |x|^2, shape (n,)."""
        k = len(self.halves)
        out = self.workspace.take("latent", len(rows), len(self.directions), self.dtype, rows.device)
        both = product(rows, self.directions.T, out)
        latent = both[:, k:].sub_(self.shifts)
        found = both[:, :k], latent, torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square_()
        self.workspace.keep("latent", (self, rows, found))
        return found


@dataclass(frozen=True)
class TiedLatentKernel(LatentKernel):
    """The pass of planes in one full noise S_0, whose metric V'V takes the place of 1/s^2.

    What all components share of a row, -x'V'Vx/2, is left out.

    Parameters
    ----------
    common : Tensor, shape (g, d(d+1)/2)
        The packed -V'V/2 of each group.
    """

    common: Tensor

    @classmethod
    def tied(
        cls,
        family: Any,
        params: Any,
        log_weights: Tensor,
        dtype: torch.dtype,
        workspace: Workspace,
        planes: RoundPlanes,
        pulled: Tensor,
        common: Tensor,
    ) -> TiedLatentKernel:
        """Return the pass of planes in the metric of S_0, of means that V'V has pulled, shape (k, d)."""
        means = params.means
        return cls(
            family,
            params,
            log_weights,
            dtype,
            workspace,
            torch.cat([pulled, planes.axes.flatten(0, 1)]).to(dtype),
            (planes.axes @ means[:, :, None]).flatten().to(dtype),
            torch.zeros_like(planes.constants),
            log_weights.to(means) - 0.5 * (planes.constants + (means * pulled).sum(1)),
            unit=True,
            common=common,
        )

    def row_offset(self, rows: Tensor) -> Tensor:
        """Return -|Vx|^2/2 of each row, shape (n,), in float64."""
        return (rows.double() @ self.params.whitener[0].T).square().sum(1).mul_(-0.5)

    def offset(self, pooled: Tensor | None) -> Tensor | None:
        """Return -|Vx|^2/2 summed over all rows, one sum a group."""
        return None if pooled is None else (self.common * pooled).sum(1)


def latent_moments(
    rows: Tensor,
    latent: Tensor,
    norms: Tensor,
    code: Code,
    weights: Tensor | None,
    *,
    unit: bool,
    pooled: Tensor | None = None,
) -> LatentMoments:
    """Return the sums of a block.

    Parameters
    ----------
    rows : Tensor, shape (n, d)
    latent : Tensor, shape (n, k q)
        t.
    norms : Tensor, shape (n,)
        |x|^2, float64.
    code : SoftCode, shape (n, k), weights already in it, or HardCode
    weights : Tensor, shape (n,), optional
        Of the rows of a hard code.
    unit : bool
        Whether t has variance one given x, as it has once there are parameters; else it is known.
    pooled : Tensor, shape (1, 1), optional
        The family's sums that no code weighs.
    """
    n, d = rows.shape
    if isinstance(code, HardCode):
        k = code.n_components
        ones = rows.new_ones(n) if weights is None else weights.to(rows.dtype)
        order = torch.argsort(code.index, stable=True)
        sizes: list[int] = torch.bincount(code.index, minlength=k).tolist()
        members = [(index, ones[index]) for index in order.split(sizes)]
    else:
        k = code.shape[1]
        active = code > _NEGLIGIBLE[rows.dtype]
        members = None
        if int(active.sum()) < _SPARSE * n * k:
            places = active.T.nonzero()
            sizes = torch.bincount(places[:, 0], minlength=k).tolist()
            members = [(index, code[index, i]) for i, index in enumerate(places[:, 1].split(sizes))]
    q = latent.shape[1] // k
    counts = torch.zeros(k, dtype=torch.float64, device=rows.device)
    if members is None:
        assert isinstance(code, Tensor)
        counts += code.sum(0, dtype=torch.float64)
        t = latent.view(n, k, q)
        weighted = t * code[:, :, None]
        cross = product(weighted.view(n, k * q).T, rows, rows.new_empty(k * q, d)).view(k, q, d).double()
        sums = product(code.T, rows, rows.new_empty(k, d)).double()
        squares = code.T.double() @ norms
        latent_sums = weighted.sum(0).double()
        products = torch.bmm(weighted.permute(1, 2, 0), t.transpose(0, 1)).double()
    else:
        sums, squares = torch.zeros(k, d, dtype=torch.float64), torch.zeros_like(counts)
        latent_sums = torch.zeros(k, q, dtype=torch.float64)
        products, cross = torch.zeros(k, q, q, dtype=torch.float64), torch.zeros(k, q, d, dtype=torch.float64)
        for i, (index, share) in enumerate(members):
            if len(index) == 0:
                continue
            x, t = rows[index], latent[index, i * q : (i + 1) * q]
            left = torch.cat([t, x.new_ones(len(index), 1)], 1) * share[:, None]  # (m, q + 1)
            both = left.T @ x  # (q + 1, d)
            cross[i], sums[i] = both[:q], both[q]
            products[i], latent_sums[i] = left[:, :q].T @ t, left[:, :q].sum(0)
            counts[i], squares[i] = share.sum(dtype=torch.float64), share.double() @ norms[index]
        sums, squares, latent_sums = (value.to(rows.device) for value in (sums, squares, latent_sums))
        products, cross = products.to(rows.device), cross.to(rows.device)
    if unit:
        products = products + counts[:, None, None] * torch.eye(q, dtype=torch.float64, device=rows.device)
    return LatentMoments(counts, sums, squares, latent_sums, products, cross, pooled)


def latent_covariances(statistics: LatentMoments, means: Tensor) -> Tensor:
    """Return C_tx, the covariances of the latent axes with the features, shape (k, q, d)."""
    total = statistics.counts.clamp_min(EMPTY)
    centres = statistics.latent_sums / total[:, None]
    return statistics.cross_products / total[:, None, None] - centres[:, :, None] * means[:, None, :]


def regressed(statistics: LatentMoments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Return means, loadings, shape (k, d, q), unfloored noise variances, and which components have any.

    .. math:: W = C_{xt}L^{-\top}, \quad LL' = C_{tt}, \qquad s^2 = (\mathrm{tr}\,C_{xx} - |W|^2)/d

    One parameter-expanded EM step, with C the moments about the means under the code. It also serves for axes
    t = R'x of any R, before there are parameters: W W' is then the Nystrom approximation of the covariance.

    References
    ----------
    Tipping & Bishop (1999), section 3.3; Liu, Rubin & Wu (1998), "Parameter expansion to accelerate EM".
    """
    counts, d = statistics.counts, statistics.sums.shape[1]
    total = counts.clamp_min(EMPTY)
    means = safe_means(counts, statistics.sums)
    centres = statistics.latent_sums / total[:, None]
    within = statistics.latent_products / total[:, None, None] - centres[:, :, None] * centres[:, None, :]
    # An axis along which nothing varies gets no loading instead of an infinite one.
    sizes = within.diagonal(dim1=1, dim2=2)
    within = within + torch.diag_embed(
        (1e-12 * sizes.amax(1, keepdim=True)).clamp_min(1e-300).expand_as(sizes)
    )
    factors, info = torch.linalg.cholesky_ex(within)
    cross = latent_covariances(statistics, means)
    loadings = torch.linalg.solve_triangular(factors, cross, upper=False).mT  # (k, d, q)
    trace = statistics.squares / total - means.square().sum(1)
    noise = (trace - loadings.square().sum((1, 2))) / d
    found = (info == 0) & (counts > EMPTY) & loadings.isfinite().all(2).all(1)
    return means, loadings, noise, found
