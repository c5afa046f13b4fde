"""The E-step of embedded codes: rows to points of R^E, in blocks, with a word on how far to trust each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder.ops.embedding.ascent import Climb, rounding
from mixcoder.ops.embedding.base import CodeKernel, Outlook, bayes
from mixcoder.ops.threads import map_in_order, single_threaded_kernels

_BLOCK_NUMBERS = 1 << 18
"""Numbers in the largest array of a block, which is (rows k e)."""


@dataclass(frozen=True)
class EmbeddedCodes:
    """Codes of rows, and how far to trust each.

    Attributes
    ----------
    codes : Tensor, shape (n, e)
        v. Finite always; where ``exists`` is false it is only where the climb would begin (a mean of anchors under
        the row's targets) or where it gave up.
    value : Tensor, shape (n,)
        The objective there, G or L, in nats.
    gradient_norm : Tensor, shape (n,)
        Length of its gradient there.
    n_steps : Tensor of int64, shape (n,)
        Newton steps.
    exists : Tensor of bool, shape (n,)
        False: the objective has no maximum for this row, it still rises at infinity (push-away).

    Examples
    --------
    >>> from mixcoder.ops.embedding import EmbeddingKernel
    >>> anchors = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> found = encode_embedded(torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double(), anchors, EmbeddingKernel())
    >>> found.codes[0], found.exists
    (tensor([0.5000], dtype=torch.float64), tensor([ True, False]))
    """

    codes: Tensor
    value: Tensor
    gradient_norm: Tensor
    n_steps: Tensor
    exists: Tensor


def encode_embedded(
    targets: Tensor,
    anchors: Tensor,
    kernel: CodeKernel,
    *,
    start: Tensor | None = None,
    corners: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int = 100,
) -> EmbeddedCodes:
    r"""Return the code of every row that maximises G for fixed targets: :math:`\arg\max_v G_n(v; A_n)`.

    Damped Newton, all rows of a block at once, each until its own gradient is small. With squared distances
    (:class:`EmbeddingKernel`) G is concave, so that the maximum is global; with an absorber or a prior it exists and is
    unique, and satisfies

    .. math:: v = \frac{\beta \sum_k (A_k - q_k) w_k}{(\alpha + \beta)\, q_0 + \rho}

    With neither it exists where :func:`code_exists` says so; other rows are left alone and reported.

    Parameters
    ----------
    targets : Tensor, shape (n, k)
        A, non-negative, rows sum to one.
    anchors : Tensor, shape (k, e)
        w.
    kernel : CodeKernel
    start : Tensor, shape (n, e), optional
        Where to begin; a mean of corners under the targets by default.
    corners : Tensor, shape (k, e), optional
        What :meth:`CodeKernel.corners` said of these anchors, for those who ask often.
    tol : float
        A row is done when its gradient is not longer.
    max_iter : int
        Newton steps at most.

    Raises
    ------
    ValueError
        If a row of the targets is no point of the simplex, or the anchors leave the codes undetermined: they span fewer
        axes than e and neither absorber nor prior decides.

    Examples
    --------
    >>> from mixcoder.ops.embedding import EmbeddingKernel
    >>> anchors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> targets = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]], dtype=torch.float64)
    >>> plain = encode_embedded(targets, anchors, EmbeddingKernel())
    >>> plain.exists
    tensor([ True, False])
    >>> EmbeddingKernel().log_code(plain.codes[:1], anchors)[0].exp()
    tensor([[0.2000, 0.5000, 0.3000]], dtype=torch.float64)
    """
    _require_simplex(targets)
    kernel.require_identified(anchors)
    corners = kernel.corners(anchors) if corners is None else corners
    outlook = kernel.outlook(targets, anchors)

    def place(rows: slice) -> tuple[Tensor, ...]:
        a, possible = targets[rows], outlook.possible[rows]

        def climb(begin: Tensor) -> tuple[Climb, Tensor]:
            there = kernel.climb(begin, a, anchors, possible, tol, max_iter)
            return there, kernel.surrogate(there.codes, anchors, a)

        return _best(
            climb, _starts(start, rows, kernel.first_codes(a, anchors, corners), possible), outlook, rows
        )

    return _placed(place, len(targets), anchors)


def encode_exact(
    log_likelihood: Tensor,
    anchors: Tensor,
    kernel: CodeKernel,
    *,
    start: Tensor | None = None,
    corners: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int = 500,
) -> EmbeddedCodes:
    r"""Return a code of every row that maximises L, near its start: :math:`L_n(v) = \log \sum_k q_{nk}(v)\, p(x_n|k)`.

    Repeats: r from v (:meth:`CodeKernel.responsibilities`), where L and G(.; r) touch, then a step of v: Newton's, with
    absolute curvatures where L is not concave, halved until L gains. L never falls by more than rounding. The maximum
    is a local one.

    Without absorber and prior L nears the largest log p(x|k) among the vertices of the hull of the anchors as v goes to
    infinity; a row whose best component sits at a vertex has no code, and one that ends below that limit has not found
    any: both are reported as not existing.

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
        log p(x_n | k).
    anchors : Tensor, shape (k, e)
        w.
    kernel : CodeKernel
    start : Tensor, shape (n, e), optional
        Where to begin; a mean of corners under the posterior of equal weights by default.
    corners : Tensor, shape (k, e), optional
        As for :func:`encode_embedded`.
    tol : float
        A row is done when its gradient is not longer.
    max_iter : int
        Steps at most.

    Raises
    ------
    ValueError
        If a log-likelihood is NaN or +inf, or the anchors leave the codes undetermined as in :func:`encode_embedded`.
        -inf is fine: a component that cannot generate the row.

    Examples
    --------
    >>> from mixcoder.ops.embedding import EmbeddingKernel
    >>> anchors = torch.tensor([[0.0], [-1.0]], dtype=torch.float64)
    >>> one = torch.tensor(
    ...     [[0.0, -torch.inf]], dtype=torch.float64
    ... )  # only the first component explains the row
    >>> encode_exact(one, anchors, EmbeddingKernel(absorber=1.0, alpha=1.0)).codes
    tensor([[0.1353]], dtype=torch.float64)
    """
    _require_log_likelihood(log_likelihood)
    kernel.require_identified(anchors)
    corners = kernel.corners(anchors) if corners is None else corners
    outlook = kernel.exact_outlook(log_likelihood, anchors)

    def place(rows: slice) -> tuple[Tensor, ...]:
        h, possible = log_likelihood[rows], outlook.possible[rows]

        def climb(begin: Tensor) -> tuple[Climb, Tensor]:
            there = kernel.climb_exact(begin, h, anchors, possible, tol, max_iter)
            return there, kernel.objective(there.codes, anchors, h)

        return _best(
            climb,
            _starts(start, rows, kernel.first_codes(bayes(h), anchors, corners), possible),
            outlook,
            rows,
        )

    return _placed(place, len(log_likelihood), anchors)


def _starts(start: Tensor | None, rows: slice, first: Tensor, possible: Tensor) -> Tensor:
    """Return where the rows begin, shape (s, n, e): where they are told to, if they climb at all."""
    return first if start is None else torch.where(possible[:, None], start[rows], first[:1])


def _best(
    climb: Callable[[Tensor], tuple[Climb, Tensor]], starts: Tensor, outlook: Outlook, rows: slice
) -> tuple[Tensor, ...]:
    """Return the fields of :class:`EmbeddedCodes` of some rows, from the best start; what infinity beats is no code."""
    (codes, norms, steps), value = climb(starts[0])
    for begin in starts[1:]:
        other, height = climb(begin)
        higher = height > value
        codes = torch.where(higher[:, None], other.codes, codes)
        norms, value = torch.where(higher, other.norms, norms), torch.where(higher, height, value)
        steps = steps + other.steps
    exists = outlook.possible[rows] & (value >= outlook.limit[rows] - rounding(value))
    return codes, value, norms, steps, exists


def _placed(place: Callable[[slice], tuple[Tensor, ...]], n: int, anchors: Tensor) -> EmbeddedCodes:
    """Return the codes of all rows, block by block, the blocks in threads."""
    with single_threaded_kernels() as n_threads:
        workers = n_threads if anchors.device.type == "cpu" else 1
        found = list(map_in_order(place, row_blocks(n, anchors), workers))
    return EmbeddedCodes(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def row_blocks(n: int, anchors: Tensor) -> list[slice]:
    """Return slices of rows, of which the largest intermediate array (rows k e) has a bounded size."""
    rows = max(1, _BLOCK_NUMBERS // max(1, anchors.numel()))
    return [slice(first, min(n, first + rows)) for first in range(0, max(n, 1), rows)]


def _require_simplex(targets: Tensor) -> None:
    for a in targets.split(1 << 14):
        least, totals = a.amin(dim=1), a.sum(dim=1)
        wrong = ~((least >= 0) & ((totals - 1).abs() <= 1e-5))  # NaN is wrong, too
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"Expected targets on the simplex, but row {row} has least entry {float(least[row]):g} and sum "
                f"{float(totals[row]):g}: divide each row of non-negative weights by its sum."
            )


def _require_log_likelihood(log_likelihood: Tensor) -> None:
    # One pass that keeps nothing: the largest entry of a row is NaN or +inf where any is.
    largest = log_likelihood.amax(dim=1)
    wrong = ~(largest < torch.inf)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"Expected log-likelihoods below infinity, but row {row} contains {float(largest[row]):g}: check the "
            "parameters and rows that they were made of; -inf is fine where a component cannot generate the row."
        )
