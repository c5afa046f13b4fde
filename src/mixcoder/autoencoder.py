"""A fitted mixture, read as an autoencoder: encode, decode, reconstruct, log_prob, sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.base import Family, Kernel, Params, PassSetting
from mixcoder.components.observed import observed_parts
from mixcoder.encoders import Argmax, Encoder
from mixcoder.encoders.argmax import rowwise_argmax
from mixcoder.ops.frame import Frame
from mixcoder.ops.simplex import softargmax_
from mixcoder.ops.threads import single_threaded_kernels
from mixcoder.ops.workspace import Workspace
from mixcoder.sources import Block, Source, TensorSource

# Largest error in nats that a reported log-density may owe to its arithmetic, on a row of typical size.
_REPORT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}

_SUM_TOLERANCE = 1e-8

# Rows that are completed at a time.
_COMPLETE_ROWS = 8192

# Squares of whitened rows this far out, in working units, are still numbers.
_HORIZON = 1e140

# Another such distance: what a log-density does between the two it does beyond.
_NEARER = 1e130


def block_rows(n_components: int, width: int, itemsize: int) -> int:
    """Return how many rows a block has.

    Features and code of a block should stay in the processor's caches, but every operation of a block must
    also take far longer than handing the interpreter to the next thread (some 50 microseconds).
    """
    rows = (16 << 20) // (itemsize * max(1, 2 * n_components + width))
    fewest = 4096 if itemsize <= 4 else 2048
    return max(fewest, 1 << min(15, rows.bit_length() - 1))


@dataclass(frozen=True, repr=False)
class MixtureAutoencoder:
    r"""A mixture :math:`p(x) = \sum_k \pi_k\, p(x|k)` with the rule that encodes its rows.

    Parameters
    ----------
    family : Family
        What a component generates.
    params : Params
        Parameters of the components, in working coordinates.
    log_weights : Tensor, shape (k,)
        log pi; exponentials sum to one, -inf for a component that is not used.
    encoder : Encoder
        How a row picks its components.
    frame : Frame
        Working coordinates of ``params``.
    magnitude : Tensor, shape (d,)
        Root mean square of the training rows in working coordinates; it sets the precision of a pass.

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder import GaussianMixture
    >>> X = np.array([[0.0], [0.2], [0.1], [9.0], [9.3], [9.1]])
    >>> model = GaussianMixture(2, random_state=0).fit(X).model_
    >>> model
    MixtureAutoencoder of 2 GaussianFull components on 1 features, encoded by Posterior
    >>> code = model.encode(torch.tensor(X))
    >>> model.decode(code).shape, model.log_prob(torch.tensor(X)).shape
    (torch.Size([6, 1]), torch.Size([6]))
    """

    family: Family[Any, Any]
    params: Params
    log_weights: Tensor
    encoder: Encoder
    frame: Frame
    magnitude: Tensor

    def __post_init__(self) -> None:
        total = float(torch.logsumexp(self.log_weights, 0))
        if not abs(total) <= _SUM_TOLERANCE:
            raise ValueError(
                f"exp(log_weights) must sum to one, got exp({total:.3g}); pass logarithms of weights "
                "that are normalised."
            )
        if self.log_weights.shape[0] != self.params.n_components:
            raise ValueError(
                f"log_weights has {self.log_weights.shape[0]} entries for "
                f"{self.params.n_components} components."
            )

    def __repr__(self) -> str:
        return (
            f"MixtureAutoencoder of {self.n_components} {type(self.family).__name__} components on {self.n_features} "
            f"features, encoded by {type(self.encoder).__name__}"
        )

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        return int(self.log_weights.shape[0])

    @property
    def n_features(self) -> int:
        """Number of features, D."""
        return int(self.frame.shift.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.log_weights.device

    @property
    def is_hard(self) -> bool:
        """Whether rows are coded by one component each."""
        return isinstance(self.encoder.at(0), Argmax)  # the end of a schedule of temperatures may be hard

    def to(self, device: torch.device) -> Self:
        """Return the model on another device."""
        return replace(
            self,
            params=self.params.to(device),
            log_weights=self.log_weights.to(device),
            frame=self.frame.to(device),
            magnitude=self.magnitude.to(device),
        )

    # encode: row -> code

    def encode(self, x: Tensor) -> Code:
        """Return the code of each row under the model's encoder.

        Parameters
        ----------
        x : Tensor, shape (n, d)

        Returns
        -------
        SoftCode, shape (n, k), in the dtype of ``x``, or HardCode
        """
        if self.is_hard:
            return HardCode(self.assign(x), self.n_components)
        code = torch.empty(x.shape[0], self.n_components, dtype=x.dtype, device=x.device)

        def write(block: Block, log_joint: Tensor, offset: Tensor | None) -> None:
            del offset
            part = self.encoder.encode_with_bound_(log_joint)[0]
            code[block.start : block.stop] = part if isinstance(part, Tensor) else part.dense(x.dtype)

        self._sweep(x, write)
        return code

    def assign(self, x: Tensor | Source) -> Tensor:
        """Return the most probable component of each row, int64, shape (n,)."""
        source = x if isinstance(x, Source) else TensorSource(x)
        index = torch.empty(source.n_rows, dtype=torch.int64, device=source.device)

        def write(block: Block, log_joint: Tensor, offset: Tensor | None) -> None:
            del offset
            index[block.start : block.stop] = rowwise_argmax(log_joint)

        self._sweep(source, write, column_major=False)
        return index

    # decode: code -> row

    def decode(self, code: Code) -> Tensor:
        """Return the expected row of each code, shape (n, d)."""
        return self.frame.undo(self.family.decode(self.params, code))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return decode(encode(x)) in the dtype of ``x``, block by block, shape (n, d)."""
        rows = torch.empty_like(x)
        hard, k = self.is_hard, self.n_components

        def write(block: Block, log_joint: Tensor, offset: Tensor | None) -> None:
            del offset
            code: Code = (
                HardCode(rowwise_argmax(log_joint), k)
                if hard
                else self.encoder.encode_with_bound_(log_joint)[0]
            )
            rows[block.start : block.stop] = self.decode(code)

        self._sweep(x, write, column_major=not hard)
        return rows

    def prototypes(self) -> Tensor:
        """Return the expected row of each component, shape (k, d)."""
        every = torch.arange(self.n_components, device=self.device)
        return self.decode(HardCode(every, self.n_components))

    # how probable a row is

    def log_prob(self, x: Tensor | Source) -> Tensor:
        r"""Return :math:`\log \sum_k \pi_k p(x_n|k)` in nats, in the dtype of ``x``, shape (n,)."""
        source = x if isinstance(x, Source) else TensorSource(x)
        result = torch.empty(source.n_rows, dtype=source.dtype, device=source.device)

        def write(block: Block, log_joint: Tensor, offset: Tensor | None) -> None:
            value = softargmax_(log_joint)[1]
            value += self.frame.log_scale
            if offset is not None:
                value += offset
            result[block.start : block.stop] = value

        self._sweep(source, write)
        return result

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log pi_k + log p(x_n | k) in nats, in float64 where the dtype asks for it, shape (n, k)."""
        result = torch.empty(x.shape[0], self.n_components, dtype=x.dtype, device=x.device)

        def write(block: Block, log_joint: Tensor, offset: Tensor | None) -> None:
            log_joint += self.frame.log_scale
            if offset is not None:
                log_joint += offset[:, None]
            result[block.start : block.stop] = log_joint

        self._sweep(x, write)
        return result

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log p(x_n | k) in nats, shape (n, k)."""
        rows = self.frame.apply(x.to(torch.float64))
        return (self.family.log_likelihood(self.params, rows) + self.frame.log_scale).to(x.dtype)

    def sample(self, n_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return rows drawn from the mixture, shape (n, d), and the component of each, shape (n,)."""
        weights = self.log_weights.exp()
        index = torch.multinomial(weights, n_rows, replacement=True, generator=generator)
        return self.frame.undo(self.family.sample(self.params, index, generator)), index

    def kernel(
        self, dtype: torch.dtype, workspace: Workspace, *, column_major: bool = True
    ) -> Kernel[Any, Any]:
        """Return the pass that reports log-densities."""
        setting = PassSetting(
            dtype, workspace, self.magnitude, _REPORT_TOLERANCE[dtype], column_major=column_major
        )
        return self.family.kernel(self.params, self.log_weights, setting)

    def _sweep(
        self,
        x: Tensor | Source,
        write: Callable[[Block, Tensor, Tensor | None], None],
        *,
        column_major: bool = True,
    ) -> None:
        """Call ``write(block, log_joint, row_offset)`` on every block of rows."""
        source = x if isinstance(x, Source) else TensorSource(x)
        with single_threaded_kernels():  # a second thread costs more than the parameters of any kernel
            kernel = self.kernel(source.dtype, Workspace(), column_major=column_major)
        width = self.family.width(self.n_features)
        rows = block_rows(self.n_components, width, torch.finfo(source.dtype).bits // 8)
        used = int(self.log_weights.argmax())

        def visit(block: Block) -> None:
            expanded = kernel.expand(block.x, self.frame)
            log_joint, offset = kernel.log_joint(expanded), kernel.row_offset(expanded)
            # Rows so far out that their squares overflow give infinities here: take the long way.
            lost = ~log_joint[:, used].isfinite()
            if offset is not None:
                lost = lost | ~offset.isfinite()
            if bool(lost.any()):
                exact, level = self._log_joint_the_long_way(block.x[lost])
                log_joint[lost] = exact.to(log_joint.dtype)
                offset = log_joint.new_zeros(len(log_joint)) if offset is None else offset
                offset = offset.masked_scatter(lost, level.to(offset.dtype))
            write(block, log_joint, offset)

        source.map_rows(visit, rows)

    def _log_joint_the_long_way(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log pi_k + log p(z_n | k) in float64 less its largest, shape (n, k), and that, shape (n,).

        A row beyond all horizons is compared with the components on its horizon, and its largest is followed from
        there; missing entries, NaN, are integrated out.
        """
        rows = self.frame.apply(x.to(torch.float64)).clamp_(-1e300, 1e300)
        missing = rows.isnan()
        reach = rows.abs().nan_to_num_(nan=0.0).amax(1)
        nearer = (_HORIZON / reach).clamp_max(1.0)
        exact = self._observed_log_joint(rows * nearer[:, None], missing)
        level = exact.amax(1)
        exact -= level[:, None]
        far = nearer < 1
        if bool(far.any()):
            level[far] = self._level_beyond(rows[far], reach[far], missing[far], level[far])
        # The caller adds the units of all columns: those that are missing have none.
        return exact, level - missing.to(rows.dtype) @ self.frame.scale.log()

    def _level_beyond(self, rows: Tensor, reach: Tensor, missing: Tensor, level: Tensor) -> Tensor:
        """Return the largest log pi_k + log p(z_n | k) of rows beyond the horizon, shape (n,); -inf where it overflows.

        Parameters
        ----------
        reach : Tensor, shape (n,)
            Largest coordinate of each row.
        level : Tensor, shape (n,)
            What is looked for, at the horizon.
        """
        found = self._observed_log_joint(rows, missing).amax(1)
        # Where squares overflow, a density that falls as a power of the distance goes on to do so.
        decades = math.log(_HORIZON / _NEARER)
        within = self._observed_log_joint(rows * (_NEARER / reach)[:, None], missing).amax(1)
        slow = level + (level - within) * ((reach / _HORIZON).log() / decades)
        beyond = torch.where(level > -_HORIZON, slow, -math.inf)
        return torch.where(found.isfinite(), found, beyond)

    def _observed_log_joint(self, rows: Tensor, missing: Tensor) -> Tensor:
        """Return log pi_k + log p(z_n | k) of what is seen of rows in working coordinates, float64, shape (n, k)."""
        if not bool(missing.any()):
            return self.family.log_likelihood(self.params, rows) + self.log_weights
        exact = rows.new_empty(len(rows), self.n_components)
        for index, seen in observed_parts(self.family, self.params, rows):
            exact[index] = seen.log_likelihood + self.log_weights
        return exact

    def complete(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Return the rows with each missing entry, NaN, filled in, in the dtype of ``x``, shape (n, d).

        By its posterior mean, :math:`\sum_k p(k|x_a)\, E[x_b | x_a, k]`; with a generator by a draw from
        :math:`p(x_b | x_a)`: a component, then what it generates given what is seen. What is there stays as it is.
        A row without any entry is the mean of the mixture, or a draw from it. Working memory does not depend on the
        number of rows.
        """
        filled = x.clone()
        for block in TensorSource(x).blocks(_COMPLETE_ROWS):
            some = block.x.isnan().any(1).nonzero()[:, 0]
            if not len(some):
                continue
            rows = self.frame.apply(block.x[some].double()).clamp_(-_HORIZON, _HORIZON)
            for index, seen in observed_parts(self.family, self.params, rows):
                code = torch.softmax(seen.log_likelihood + self.log_weights, 1)
                if generator is None:
                    guess = seen.expected(code)
                else:
                    drawn = torch.multinomial(code, 1, generator=generator)[:, 0]
                    guess = seen.sample(drawn, generator)
                place = some[index]
                known = ~block.x[place].isnan()
                guess = self.frame.undo(guess).to(x.dtype)
                filled[block.start + place] = torch.where(known, block.x[place], guess)
        return filled


def code_length(code: Code, log_weights: Tensor) -> Tensor:
    r"""Return the rate of each row's code in bits, shape (n,).

    A hard code costs :math:`-\log_2 \pi_k` with an entropy coder. A soft code costs what bits-back coding
    pays for it, its divergence from the weights:

    .. math:: R_n = \sum_k u_{nk} \log_2 \frac{u_{nk}}{\pi_k}

    References
    ----------
    Hinton & van Camp (1993), "Keeping neural networks simple by minimizing the description length".
    """
    if isinstance(code, HardCode):
        return -log_weights[code.index] / math.log(2)
    divergence = torch.where(code > 0, code * (code.log() - log_weights.to(code.dtype)), 0.0)
    return divergence.sum(1) / math.log(2)
