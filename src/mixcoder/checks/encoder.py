"""The laws of an encoder: its code maximises its own bound, lies on the simplex, and sees nothing but differences."""

from __future__ import annotations

import pickle  # noqa: TID251 - a law: encoders travel to workers; nothing that came from outside is read
from collections.abc import Callable, Iterable, Iterator
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mixcoder import encoders
from mixcoder._typing import Code, HardCode
from mixcoder.checks import alternation
from mixcoder.checks.case import Case, Check, random, require, require_close, require_same_bits, run, simplex
from mixcoder.checks.discovery import discover
from mixcoder.components import GaussianDiagonal
from mixcoder.encoders import Encoder

_ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-13}


@dataclass(frozen=True)
class Subject:
    """An encoder and its name."""

    encoder: Encoder
    name: str


def a_code_maximises_its_own_bound(subject: Subject) -> None:
    """No point of the simplex, near the code, anywhere or at a vertex, has a higher bound than the code."""
    for dtype, what, log_joint in _joints():
        for moment in (0, 1, 5, 10_000):
            encoder = subject.encoder.at(moment)
            code = encoder.encode(log_joint.clone())
            own = encoder.bound(log_joint, code).double()
            n, k = log_joint.shape
            dense = _dense(code, dtype)
            competitors = {f"vertex {j}": _vertex(n, j, k).to(dtype) for j in range(k)}
            for seed, spread in enumerate((0.2, 1.0, 5.0)):
                other = simplex(n, k, 400 + seed, concentration=spread).to(dtype)
                competitors[f"random code {seed}"] = other
                for share in (0.3, 1e-2, 1e-4):
                    moved = (1 - share) * dense + share * other
                    competitors[f"code moved by {share:g} towards random code {seed}"] = moved
            limit = _ROUNDING[dtype] * (10 + log_joint.double().nan_to_num(neginf=0.0).abs().amax(1))
            for name, other in competitors.items():
                gap = encoder.bound(log_joint, other).double() - own
                gap = torch.where(own.isfinite(), gap, 0.0)
                row = int((gap - limit).argmax())
                require(
                    bool((gap <= limit).all()),
                    f"{what}, {dtype}, iteration {moment}, row {row}: the bound of the code is {float(own[row]):.9g}, "
                    f"of the {name} {float(gap[row] + own[row]):.9g}",
                )


def codes_lie_on_the_simplex(subject: Subject) -> None:
    """A code is non-negative, finite, of the dtype asked for, and sums to one; an index is one of the components."""
    for dtype, what, log_joint in _joints():
        code = subject.encoder.encode(log_joint.clone())
        n, k = log_joint.shape
        if isinstance(code, HardCode):
            require(code.n_components == k, f"{what}: n_components is {code.n_components}, expected {k}")
            require(code.index.dtype == torch.int64, f"{what}: index is {code.index.dtype}")
            require(tuple(code.index.shape) == (n,), f"{what}: index has shape {tuple(code.index.shape)}")
            require(bool(((code.index >= 0) & (code.index < k)).all()), f"{what}: index outside 0..{k - 1}")
            continue
        require(tuple(code.shape) == (n, k), f"{what}: code has shape {tuple(code.shape)}, expected {(n, k)}")
        require(code.dtype == dtype, f"{what}: code is {code.dtype}, expected {dtype}")
        require(bool((code >= 0).all()), f"{what}: a code is negative: {float(code.min()):.3g}")
        gap = float((code.double().sum(1) - 1).abs().max())
        require(
            gap <= 10 * _ROUNDING[dtype] * k, f"{what}: the code of a row sums to one up to {gap:.3g} only"
        )


def one_sweep_gives_code_and_bound(subject: Subject) -> None:
    """``encode_with_bound_`` is ``encode`` and ``bound`` in one; the last two leave log_joint as it was."""
    for dtype, what, log_joint in _joints():
        given = log_joint.clone()
        code = subject.encoder.encode(given)
        bound = subject.encoder.bound(given, code)
        require_same_bits(given, log_joint, f"{what}: log_joint after encode and bound")
        require(tuple(bound.shape) == (len(log_joint),), f"{what}: bound has shape {tuple(bound.shape)}")
        swept, best = subject.encoder.encode_with_bound_(log_joint.clone())
        require_same_bits(_dense(swept, dtype), _dense(code, dtype), f"{what}: code of one sweep")
        require(best.dtype == dtype, f"{what}: bound is {best.dtype}, expected {dtype}")
        finite = bound.isfinite()
        gap = (best.double() - bound.double())[finite].abs()
        limit = _ROUNDING[dtype] * (10 + log_joint.double().nan_to_num(neginf=0.0).abs().amax(1))[finite]
        require(bool((gap <= limit).all()), f"{what}: bounds differ by up to {float(gap.max()):.3g}")
        require(bool((best[~finite] == bound[~finite]).all()), f"{what}: bounds of unexplained rows differ")


def hard_and_one_hot_codes_have_one_bound(subject: Subject) -> None:
    """The bound takes an index per row and the same code written out, and calls them equal."""
    log_joint = 3 * torch.randn(50, 4, generator=random(410), dtype=torch.float64)
    hard = HardCode(torch.arange(50) % 4, 4)
    one, two = (subject.encoder.bound(log_joint, code) for code in (hard, hard.dense(torch.float64)))
    require_close(one, two, 1e-13, "bound")


def a_code_sees_only_differences(subject: Subject) -> None:
    """Adding one number to a row moves its bound by that number and its code not at all: row terms may be left out."""
    log_joint = 3 * torch.randn(60, 5, generator=random(411), dtype=torch.float64)
    shift = 1000 * torch.randn(60, 1, generator=random(412), dtype=torch.float64)
    code, moved = (subject.encoder.encode(h.clone()) for h in (log_joint, log_joint + shift))
    require_close(_dense(moved, torch.float64), _dense(code, torch.float64), 1e-10, "code of shifted rows")
    one, two = subject.encoder.bound(log_joint, code), subject.encoder.bound(log_joint + shift, code)
    require_close(two, one + shift[:, 0], 1e-11, "bound of shifted rows")


def components_have_no_order(subject: Subject) -> None:
    """Components in another order give the same code in that order, and rows are coded one by one."""
    log_joint = 3 * torch.randn(60, 5, generator=random(413), dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 2, 1])
    code = _dense(subject.encoder.encode(log_joint.clone()), torch.float64)
    permuted = _dense(subject.encoder.encode(log_joint[:, order].clone()), torch.float64)
    require_close(permuted, code[:, order], 1e-13, "code of permuted components")
    some = _dense(subject.encoder.encode(log_joint[20:30].clone()), torch.float64)
    require_close(some, code[20:30], 1e-13, "code of some of the rows")


def mixtures_side_by_side_are_coded_apart(subject: Subject) -> None:
    """Leading axes are separate mixtures of the same rows: each has the code and the bound that it has alone."""
    log_joint = 3 * torch.randn(60, 10, generator=random(418), dtype=torch.float64)
    groups = log_joint.unflatten(1, (2, 5)).transpose(0, 1)  # (g, n, k), not contiguous
    alone = [subject.encoder.encode_with_bound_(group.clone()) for group in groups]
    code, bound = subject.encoder.encode_with_bound_(groups)
    dense = _dense(code, torch.float64)
    require(tuple(dense.shape) == (2, 60, 5), f"codes of (2, 60, 5) have shape {tuple(dense.shape)}")
    for group, (own, best) in enumerate(alone):
        require_close(dense[group], _dense(own, torch.float64), 1e-13, f"code of mixture {group} of two")
        require_close(bound[group], best, 1e-13, f"bound of mixture {group} of two")
    if isinstance(code, Tensor):
        require_same_bits(groups, code, "the scratch that a soft code is written into")


def unexplained_rows_do_no_harm(subject: Subject) -> None:
    """A row that no component explains has a finite code and the bound -inf; its neighbours are as they were."""
    log_joint = torch.randn(3, 4, generator=random(414), dtype=torch.float64)
    log_joint[1] = -torch.inf
    code, bound = subject.encoder.encode_with_bound_(log_joint.clone())
    dense = _dense(code, torch.float64)
    require(bool(dense.isfinite().all()), f"the codes are {dense.tolist()}")
    require(float(bound[1]) == -torch.inf, f"the bound of an unexplained row is {float(bound[1])}")
    alone = _dense(subject.encoder.encode(log_joint[::2].clone()), torch.float64)
    require_close(dense[::2], alone, 1e-13, "code of the other rows")


def a_schedule_settles(subject: Subject) -> None:
    """``at`` returns another encoder and leaves this one; in the end the rule no longer changes."""
    before = repr(subject.encoder)
    late, later = subject.encoder.at(100_000), subject.encoder.at(200_000)
    require(repr(subject.encoder) == before, "at changed the encoder")
    require(late.settled and later.settled, f"{late!r} has not settled after 100000 iterations")
    log_joint = torch.randn(20, 3, generator=random(415), dtype=torch.float64)
    one, two = (_dense(encoder.encode(log_joint.clone()), torch.float64) for encoder in (late, later))
    require_same_bits(one, two, "codes of a settled schedule")
    if subject.encoder.settled:
        own = _dense(subject.encoder.encode(log_joint.clone()), torch.float64)
        require_same_bits(own, one, "codes of a settled encoder, now and later")


def values_are_frozen_and_survive_pickling(subject: Subject) -> None:
    """An encoder cannot be changed in place, and reaches a worker as it is."""
    value: Any = subject.encoder
    for field in fields(value):
        try:
            setattr(value, field.name, getattr(value, field.name))
        except FrozenInstanceError:
            continue
        raise AssertionError(f"{type(value).__name__}.{field.name} can be set: not frozen")
    require(pickle.loads(pickle.dumps(value)) == value, f"a pickled {value!r} is another")


LAWS: tuple[Callable[[Subject], None], ...] = (
    a_code_maximises_its_own_bound,
    codes_lie_on_the_simplex,
    one_sweep_gives_code_and_bound,
    hard_and_one_hot_codes_have_one_bound,
    a_code_sees_only_differences,
    components_have_no_order,
    mixtures_side_by_side_are_coded_apart,
    unexplained_rows_do_no_harm,
    a_schedule_settles,
    values_are_frozen_and_survive_pickling,
)
"""What every encoder obeys by itself."""


def check_encoder(encoder: Encoder | type[Encoder], *, skip: Iterable[str] = ()) -> None:
    """Run every law of an encoder, by itself and alternating with a mixture of Gaussians.

    Parameters
    ----------
    encoder : Encoder, or a class of them
        A class is checked on its ``examples()``.
    skip : iterable of str
        Names of laws to leave out.

    Raises
    ------
    AssertionError
        Lists every law that is broken, with the numbers.

    Examples
    --------
    >>> from mixcoder.encoders import Tempered
    >>> check_encoder(Tempered(beta=0.7))
    """
    if isinstance(encoder, type):
        subjects = _subjects(encoder)
    else:
        subjects = [Subject(encoder, type(encoder).__name__)]
    left_out = set(skip)
    known = {law.__name__ for law in (*LAWS, *alternation.LAWS)}
    if not left_out <= known:
        raise AssertionError(f"No such laws: {sorted(left_out - known)}; there are {sorted(known)}.")
    run(check for check in _checks(subjects) if check.law.__name__ not in left_out)


def encoder_checks(
    encoder_classes: Iterable[type[Encoder]] | None = None,
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a name and a callable for every law of every example of every encoder.

    Parameters
    ----------
    encoder_classes : iterable of classes, optional
        All of :mod:`mixcoder.encoders`, found by discovery, by default.

    Examples
    --------
    >>> from mixcoder.encoders import Argmax
    >>> for name, law in encoder_checks([Argmax]):
    ...     law()
    """
    for found in discover(encoders, Encoder) if encoder_classes is None else encoder_classes:
        for check in _checks(_subjects(found)):
            yield check.name, check


def _subjects(encoder: type[Encoder]) -> list[Subject]:
    examples = list(encoder.examples())
    if not examples:
        raise AssertionError(f"{encoder.__name__}.examples() is empty: there is nothing to check it on.")
    return [Subject(example, f"{encoder.__name__}[{i}]") for i, example in enumerate(examples)]


def _checks(subjects: Iterable[Subject]) -> Iterator[Check]:
    family, params = GaussianDiagonal.examples()[0]
    for subject in subjects:
        for law in LAWS:
            yield Check(law, subject)
        pair = alternation.Pair(
            Case(family, params, "GaussianDiagonal"), subject.encoder, f"{subject.name}-GaussianDiagonal"
        )
        for pair_law in alternation.LAWS:
            yield Check(pair_law, pair)


def _joints() -> Iterator[tuple[torch.dtype, str, Tensor]]:
    """Yield log-joints of every kind that a fit meets, in both precisions."""
    for dtype in (torch.float64, torch.float32):
        normal = torch.randn(80, 4, generator=random(416), dtype=torch.float64)
        impossible = torch.where(normal > 0.5, -torch.inf, normal)
        impossible[impossible.isinf().all(1)] = 0.0
        kinds = {
            "alike components": 0.1 * normal,
            "components apart": 20 * normal,
            "far-off rows": 3 * normal - 1000.0,
            "impossible components": impossible,
            "tied components": torch.zeros(5, 3, dtype=torch.float64),
            "one component": normal[:, :1].clone(),
            "forty components": 3 * torch.randn(30, 40, generator=random(417), dtype=torch.float64),
        }
        for what, log_joint in kinds.items():
            yield dtype, what, log_joint.to(dtype)


def _dense(code: Code, dtype: torch.dtype) -> Tensor:
    return code.dense(dtype) if isinstance(code, HardCode) else code


def _vertex(n_rows: int, component: int, n_components: int) -> Tensor:
    return HardCode(torch.full((n_rows,), component), n_components).dense(torch.float64)
