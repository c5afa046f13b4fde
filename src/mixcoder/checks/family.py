"""The laws of a family: sums add, ``maximize`` maximises, samples come from the density, inputs stay as they are."""

from __future__ import annotations

import math
import pickle  # noqa: TID251 - a law: parameters travel to workers; nothing that came from outside is read
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from mixcoder import components
from mixcoder._typing import Code, HardCode
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.checks import alternation, density, missing
from mixcoder.checks.case import (
    Case,
    Check,
    copied,
    counts_of,
    log_odds,
    near,
    part_of,
    random,
    require,
    require_close,
    require_finite,
    require_same_bits,
    require_same_sums,
    rounding,
    row_weights,
    run,
    simplex,
    tensors,
    whole_numbers,
)
from mixcoder.checks.discovery import discover
from mixcoder.components import Family, Kernel, Params, PassSetting
from mixcoder.encoders import Encoder, Posterior
from mixcoder.fitting.fit import start_from_code
from mixcoder.ops.frame import Frame
from mixcoder.ops.workspace import Workspace

# A mean further than this many standard errors from where it must be is no chance (one in 1.7 million); seeds are
# fixed, so that a law that holds once holds always.
_Z = 5.0

# Draws of a component: a mean that is off by a fiftieth of a standard deviation is seen.
_DRAWS = 100_000

# Step of finite differences, as a share of the statistics: small, because rows of one component lie far out for
# another, and no smaller than rounding allows.
_EPS = 1e-5

# What a single precision density may err by, relative to the terms that it is the sum of.
_SINGLE = 2e-5

# A kernel promises its tolerance on a row of typical size; the bound it computes is blind to a few roundings.
_SLACK = 2.0

# What the result itself can hold, relative to its size.
_RESULT = {torch.float32: 1e-6, torch.float64: 1e-11}


# Sums


def sums_over_blocks_equal_the_whole(case: Case) -> None:
    """Statistics of blocks, split and ordered anyhow, add up to the statistics of all rows."""
    x, index = case.rows(61, seed=1)
    n, k = len(x), case.n_components
    for code in (simplex(n, k, seed=2), HardCode(index, k)):
        for weights in (None, row_weights(n, seed=3)):
            for params in (case.params, None):
                whole = case.family.statistics(params, x, part_of(code, 0, n), weights)
                require_close(counts_of(whole), _counts(code, weights), 1e-12, "counts")
                for cuts in ([30], [1, 2, 60], [20, 40], list(range(1, n))):
                    bounds = list(zip([0, *cuts], [*cuts, n], strict=True))
                    parts = [
                        case.family.statistics(
                            params, x[a:b], part_of(code, a, b), None if weights is None else weights[a:b]
                        )
                        for a, b in bounds
                    ]
                    for order in (parts, parts[::-1]):
                        total = order[0]
                        for part in order[1:]:
                            total = total + part
                        require_same_sums(total, whole, 1e-12, f"{len(parts)} blocks, cut at {cuts[:3]}")


def weights_are_repetitions(case: Case) -> None:
    """A row of weight three counts like three rows, one of weight zero like none."""
    x, index = case.rows(41, seed=4)
    k, times = case.n_components, torch.arange(41) % 4
    rows = torch.repeat_interleave(torch.arange(41), times)
    soft = simplex(41, k, seed=5)
    for code, repeated in ((soft, soft[rows]), (HardCode(index, k), HardCode(index[rows], k))):
        weighted = case.family.statistics(case.params, x, code, times.double())
        require_same_sums(
            weighted, case.family.statistics(case.params, x[rows], repeated), 1e-12, "statistics"
        )
    single = case.family.statistics(case.params, x, soft, times.float())
    weighted = case.family.statistics(case.params, x, soft, times.double())
    require_same_sums(single, weighted, 1e-12, "statistics with weights in float32")


def a_hard_code_is_its_one_hot_code(case: Case) -> None:
    """An index per row gives the sums and the decoded rows of the same code written out as zeros and ones."""
    x, index = case.rows(41, seed=6)
    hard = HardCode(index, case.n_components)
    for weights in (None, row_weights(41, seed=7)):
        one = case.family.statistics(case.params, x, hard, weights)
        two = case.family.statistics(case.params, x, hard.dense(x.dtype), weights)
        require_same_sums(one, two, 1e-12, "statistics")
    decoded = case.family.decode(case.params, hard)
    require(decoded.shape == x.shape, f"decode gives {tuple(decoded.shape)}, rows are {tuple(x.shape)}")
    require_close(decoded, case.family.decode(case.params, hard.dense(x.dtype)), 1e-12, "decode")


def sums_are_in_double_precision(case: Case) -> None:
    """Sums come in float64 whatever the rows, so that millions of rows add up."""
    x, _ = case.rows(41, seed=8)
    code = simplex(41, case.n_components, seed=9)
    exact = case.family.statistics(case.params, x, code)
    single = case.family.statistics(case.params, x.float(), code.float())
    for path, tensor in tensors(single):
        require(tensor.dtype == torch.float64, f"statistics of float32 rows: {path} is {tensor.dtype}")
    require_same_sums(single, exact, 1e-5, "statistics of float32 rows")
    for path, tensor in tensors(case.family.maximize(single)):
        require(tensor.dtype == torch.float64, f"maximize gives {path} in {tensor.dtype}")


# The M-step


def maximize_does_not_see_how_many_rows_there_are(case: Case) -> None:
    """Sums and averages have one maximiser."""
    x, index = case.rows(200, seed=10)
    statistics = case.family.statistics(case.params, x, near(index, case.n_components, seed=11))
    expected = case.family.maximize(statistics)
    for factor in (1 / 200, 1000.0):
        scaled = case.family.maximize(statistics.scaled(factor))
        require_close(scaled, expected, 1e-9, f"maximize(statistics.scaled({factor:g}))")


def maximize_is_stationary(case: Case) -> None:
    """Near the maximiser of a code the objective is flat: it falls as the square of the distance to another's.

    The other parameters are those that belong to nearby codes, which needs no parametrisation.
    """
    x, index = case.rows(200, seed=12)
    n, k = len(x), case.n_components
    code = near(index, k, seed=13)
    for weights in (None, row_weights(n, seed=14)):
        best = case.settled(x, code, weights)
        top = case.objective(best, x, code, weights)
        size = float((case.family.log_likelihood(best, x).abs() * code).sum())
        for seed in (15, 16):
            towards = 0.01 * (simplex(n, k, seed) - simplex(n, k, seed + 100))
            gaps: dict[float, float] = {}
            for step in (-0.4, -0.2, 0.2, 0.4):
                other = case.settled(x, code + step * towards, weights, start=best)
                gaps[step] = top - case.objective(other, x, code, weights)
            if max(map(abs, gaps.values())) <= 1e2 * rounding(size):
                continue  # the code has no say, as in a component of fixed shape
            told = ", ".join(f"{step:+g}: {value:.4g}" for step, value in gaps.items())
            require(
                min(gaps.values()) >= -rounding(size),
                f"other parameters are better than maximize's; gaps by distance {told}",
            )
            for near_by, far in ((-0.2, -0.4), (0.2, 0.4)):
                require(
                    3.8 * gaps[near_by] <= gaps[far] <= 4.2 * gaps[near_by],
                    f"the objective does not fall as the square of the distance: gaps {told}",
                )


def maximize_is_a_maximum(case: Case) -> None:
    """No other code's parameters, near or far, raise the objective of a code above its own."""
    x, index = case.rows(150, seed=18)
    n, k = len(x), case.n_components
    for code in (near(index, k, seed=19), simplex(n, k, seed=20), HardCode(index, k)):
        best = case.settled(x, code)
        top = case.objective(best, x, code)
        size = float(case.family.log_likelihood(best, x).abs().sum())
        dense = code.dense(x.dtype) if isinstance(code, HardCode) else code
        others: list[tuple[str, Any]] = [("the example's", case.params)]
        for seed, share in enumerate((1e-3, 0.03, 0.3, 1.0), start=21):
            other = (1 - share) * dense + share * simplex(n, k, seed, concentration=0.5)
            others.append((f"those of a code {share:g} away", case.settled(x, other, start=best)))
        for what, other in others:
            reached = case.objective(other, x, code)
            require(
                reached <= top + rounding(size),
                f"{what} parameters reach {reached:.12g}, maximize's {top:.12g}",
            )


def maximize_is_exact_on_its_floor(case: Case) -> None:
    """Where a component has one row over and over, the floor is the constrained maximiser: nothing beats it."""
    x, index = case.rows(200, seed=26)
    n, k = len(x), case.n_components
    if k == 1:
        return  # rows that are all the same, see below
    x = torch.where((index == 0)[:, None], x[index == 0][:1], x)
    code = HardCode(index, k)
    best = case.settled(x, code)
    require_finite(best, "maximize at a collapsed component:")
    top = case.objective(best, x, code)
    size = float(case.family.log_likelihood(best, x).abs().sum())
    for seed, share in enumerate((1e-6, 1e-3, 0.1), start=27):
        other = (1 - share) * code.dense(x.dtype) + share * simplex(n, k, seed)
        reached = case.objective(case.settled(x, other, start=best), x, code)
        require(
            reached <= top + 100 * rounding(size),
            f"parameters of a code {share:g} away reach {reached:.12g}, maximize's {top:.12g}",
        )


def a_step_at_a_fixed_code_never_lowers_the_objective(case: Case) -> None:
    """From any parameters, statistics and maximize at a fixed code raise its objective or leave it."""
    x, index = case.rows(300, seed=31)
    code = near(index, case.n_components, seed=32, share=0.3)
    params = case.family.maximize(case.family.statistics(None, x, simplex(300, case.n_components, seed=33)))
    values = [case.objective(params, x, code)]
    for _ in range(8):
        params = case.family.maximize(case.family.statistics(params, x, code))
        values.append(case.objective(params, x, code))
    falls = [after - before for before, after in zip(values, values[1:], strict=False)]
    require(
        min(falls) >= -rounding(sum(map(abs, values))),
        f"the objective fell by {-min(falls):.3g} along {[round(value, 6) for value in values]}",
    )


def mixtures_side_by_side_are_each_themselves(case: Case) -> None:
    """Several mixtures as one long list of components have the parameters, densities and offsets of each alone."""
    x, index = case.rows(200, seed=34)
    k, zeros = case.n_components, torch.zeros(2 * case.n_components, dtype=torch.float64)
    codes = (near(index, k, seed=35), simplex(200, k, seed=36))
    statistics = case.family.statistics(None, x, torch.cat(codes, 1))
    pooled = case.family.pooled(x)
    if pooled is not None:
        both: Any = replace(cast("Any", statistics), pooled=pooled.expand(len(codes), -1))
    else:
        both = statistics
    params = case.family.maximize(both)
    magnitude = x.square().mean(0).sqrt()
    setting = PassSetting(torch.float64, Workspace(), magnitude, math.inf, column_major=True)
    kernel = case.family.kernel(params, zeros, setting)
    expanded = kernel.expand(x, Frame.identity(x.shape[1]))
    log_joint, offsets = kernel.log_joint(expanded).clone(), kernel.offset(pooled)
    for group, code in enumerate(codes):
        what = f"mixture {group} of two side by side"
        alone = case.family.maximize(case.family.statistics(None, x, code))
        columns = torch.arange(group * k, (group + 1) * k)
        require_close(params.take(columns), alone, 1e-9, f"parameters of {what}")
        left_out = case.family.log_likelihood(alone, x) - log_joint[:, columns]
        spread = float((left_out - left_out[:, :1]).abs().max())
        require(
            spread <= 1e-7,
            f"log_joint of {what} is off its density by more than a row's offset: {spread:.3g}",
        )
        total, stated = (
            float(left_out[:, 0].sum()),
            0.0 if offsets is None else float(offsets.expand(2)[group]),
        )
        require(
            abs(total - stated) <= 1e-6 * (1 + abs(total)),
            f"offset(pooled) of {what} is {stated:.9g}, its rows add up to {total:.9g}",
        )


def empty_components_and_repeated_rows_stay_finite(case: Case) -> None:
    """No rows for a component, one row in all, the same row again and again: parameters and densities are finite."""
    x, index = case.rows(60, seed=37)
    k = case.n_components
    without = HardCode(index.clamp_min(min(1, k - 1)), k)
    nearly = without.dense(x.dtype)
    nearly[:, 0] = 1e-30
    same = x[:1].expand(60, -1).clone()
    cases: list[tuple[str, Tensor, Code]] = [
        ("rows that are all the same", same, simplex(60, k, seed=38)),
        ("one row", x[:1], simplex(1, k, seed=39)),
        ("one row, hard code", x[:1], HardCode(index[:1], k)),
    ]
    if k > 1:
        cases += [
            ("a component without rows, hard code", x, without),
            ("a component without rows, soft code", x, without.dense(x.dtype)),
            ("a component with 1e-28 of the rows", x, nearly),
            ("rows that are all the same, one component empty", same, without),
        ]
    for what, rows, code in cases:
        for params in (None, case.params):
            found = case.family.maximize(case.family.statistics(params, rows, code))
            require_finite(found, f"{what}: maximize,")
            require_finite(case.family.log_likelihood(found, rows), f"{what}: log_likelihood")
            require_finite(case.family.decode(found, code), f"{what}: decode")
            stuck = case.family.collapsed(found, torch.zeros(x.shape[1], dtype=x.dtype))
            if stuck is not None:
                shape, dtype = tuple(stuck.shape), stuck.dtype
                require(shape == (k,) and dtype == torch.bool, f"collapsed gives {shape}, {dtype}")


def n_parameters_counts_the_free_directions(case: Case) -> None:
    """As many independent directions move the densities as ``n_parameters`` says."""
    x, index = case.rows(400, seed=40)
    n, k = len(x), case.n_components
    whole = case.family.statistics(case.params, x, near(index, k, seed=41))
    stated = case.family.n_parameters(case.params)
    probes, _ = case.rows(200, seed=42)
    directions: list[Tensor] = []
    for seed in range(stated + 12):
        chosen = torch.randperm(n, generator=random(1000 + seed))[: max(40, stated)]
        part = case.family.statistics(case.params, x[chosen], simplex(len(chosen), k, seed, 0.3))
        ends = [case.family.maximize(whole + part.scaled(sign * 1e-3)) for sign in (1.0, -1.0)]
        up, down = (case.family.log_likelihood(end, probes).flatten() for end in ends)
        directions.append((up - down) / 2e-3)
    values = torch.linalg.svdvals(torch.stack(directions))
    # A step of 1e-4 in all leaves 1e-8 of curvature and less of rounding where nothing is free to move.
    require(
        float(values[stated - 1]) > 1e-6 * float(values[0]),
        f"n_parameters is {stated}, but the densities move in fewer directions: {_few(values)}",
    )
    require(
        float(values[stated]) < 1e-2 * float(values[stated - 1]),
        f"n_parameters is {stated}, but a further direction moves the densities: {_few(values)}",
    )


# Densities and samples


def samples_lie_in_the_domain(case: Case) -> None:
    """Rows drawn are finite, admissible, of the parameters' dtype, the same for the same seed and for no other."""
    n_features = case.rows(1, seed=0)[0].shape[1]
    index = torch.arange(90) % case.n_components
    before = torch.random.get_rng_state()
    x = case.family.sample(case.params, index, random(43))
    require(
        bool((torch.random.get_rng_state() == before).all()), "sample draws from torch's global generator"
    )
    require(tuple(x.shape) == (90, n_features), f"sample gives {tuple(x.shape)}, expected (90, {n_features})")
    dtype = next(tensors(case.params))[1].dtype
    require(x.dtype == dtype, f"sample gives {x.dtype}, the parameters are {dtype}")
    require_finite(x, "a sample")
    problem = case.family.check_rows(x)
    require(problem is None, f"check_rows refuses rows that sample drew: {problem}")
    require_finite(case.family.log_likelihood(case.params, x), "log_likelihood of a sample")
    require_same_bits(case.family.sample(case.params, index, random(43)), x, "two samples of one seed")
    other = case.family.sample(case.params, index, random(44))
    require(bool((other != x).any()), "samples of two seeds are the same")
    none = case.family.sample(case.params, index[:0], random(43))
    require(tuple(none.shape) == (0, n_features), f"no draws have shape {tuple(none.shape)}")


def the_score_has_zero_mean(case: Case) -> None:
    """Under the sampler, the derivative of the log-density along any direction averages to nothing.

    A direction is the change of the maximiser when a little of other rows' statistics is added: no parametrisation
    is needed.
    """
    x, index = case.rows(400, seed=45)
    k = case.n_components
    base = case.family.statistics(case.params, x, HardCode(index, k))
    truth = case.family.maximize(base)
    ends: list[tuple[int, Any, Any]] = []
    for seed in (47, 48, 49, 50):
        others, _ = case.rows(100, seed)
        towards = case.family.statistics(case.params, others, simplex(100, k, seed, concentration=0.3))
        up, down = (case.family.maximize(base + towards.scaled(sign * _EPS)) for sign in (1.0, -1.0))
        ends.append((seed, up, down))
    for component in range(k):
        own = torch.tensor([component])
        rows = case.family.sample(truth, own.expand(_DRAWS), random(46 + component))
        for seed, up, down in ends:
            above, below = (case.family.log_likelihood(end.take(own), rows)[:, 0] for end in (up, down))
            score = (above - below) / (2 * _EPS)
            error = float(score.std()) / _DRAWS**0.5
            if error <= 1e-12:
                continue  # the direction does not move this component
            z = float(score.mean()) / error
            require(
                abs(z) <= _Z,
                f"component {component}, direction {seed}: the mean score of {_DRAWS} samples is "
                f"{float(score.mean()):.4g}, {log_odds(z)}; more than {_Z:g} is no chance",
            )


def a_decoded_component_is_the_mean_of_its_samples(case: Case) -> None:
    """The code of one component decodes to the mean of its rows; where decoding is not linear, to their mode."""
    k, n = case.n_components, _DRAWS
    one_hot = torch.eye(k, dtype=torch.float64)
    decoded = case.family.decode(case.params, one_hot)
    mixed = simplex(64, k, seed=51)
    linear = (case.family.decode(case.params, mixed) - mixed @ decoded).abs().amax(0) <= 1e-9
    for component in range(k):
        rows = case.family.sample(case.params, torch.full((n,), component), random(52 + component))
        means, errors = rows.mean(0), rows.std(0) / n**0.5
        for column in range(rows.shape[1]):
            value, mean = float(decoded[component, column]), float(means[column])
            where = f"component {component}, column {column}: decodes to {value:.6g}"
            z = (value - mean) / (float(errors[column]) + 1e-12)
            if abs(z) <= _Z and bool(linear[column]):
                continue
            if k > 1 and bool(linear[column]):
                raise AssertionError(f"{where}, but {n} samples have mean {mean:.6g}, {log_odds(z)}")
            require(
                bool(whole_numbers(rows)[column]), f"{where}, which is neither mean ({mean:.6g}) nor mode"
            )
            seen, counts = rows[:, column].unique(return_counts=True)
            shares = counts / n
            own = float(shares[seen == value].sum())
            likely = float(shares.max())
            require(
                own >= likely - _Z * (2 * likely / n) ** 0.5,
                f"{where}, {own:.3f} of the samples, but {float(seen[shares.argmax()]):g} is {likely:.3f} of them",
            )


def components_can_be_taken_and_put(case: Case) -> None:
    """``take`` and ``put`` move components about without changing what each one generates."""
    x, _ = case.rows(20, seed=55)
    k = case.n_components
    log_likelihood = case.family.log_likelihood(case.params, x)
    shape, wanted = tuple(log_likelihood.shape), (20, k)
    require(shape == wanted, f"log_likelihood gives {shape}, expected (n, k) = {wanted}")
    for index in (torch.arange(k).flip(0), torch.tensor([k - 1]), torch.tensor([0, 0, k - 1])):
        taken = case.params.take(index)
        require(taken.n_components == len(index), f"take of {len(index)} has {taken.n_components} components")
        found = case.family.log_likelihood(taken, x)
        require_close(found, log_likelihood[:, index], 1e-12, f"components {index.tolist()} taken")
    last = torch.tensor([k - 1])
    found = case.family.log_likelihood(case.params.put(last, case.params.take(torch.tensor([0]))), x)
    expected = torch.cat([log_likelihood[:, :-1], log_likelihood[:, :1]], 1)
    require_close(found, expected, 1e-12, "the first component put in the place of the last")


def units_change_nothing(case: Case) -> None:
    """A fit in working coordinates is the fit in the units of the rows, up to the change of units."""
    x, index = case.rows(200, seed=56)
    frame = case.family.frame(x.mean(0) + 1.0, 4.0 * x.std(0))
    z, inside = frame.apply(x), case.family.in_frame(frame)
    code = near(index, case.n_components, seed=57)
    outer = case.family.maximize(case.family.statistics(None, x, code))
    inner = inside.maximize(inside.statistics(None, z, code))
    here = case.family.log_likelihood(outer, x)
    there = inside.log_likelihood(inner, z) + frame.log_scale
    require_close(there, here, 1e-9, "log_likelihood in working coordinates")
    decoded = frame.undo(inside.decode(inner, code))
    require_close(decoded, case.family.decode(outer, code), 1e-9, "decode in working coordinates")


# What a pass over the rows computes


def kernels_agree_with_the_density(case: Case) -> None:
    """Every pass gives log_likelihood + log_weights up to its tolerance, and the statistics of its code."""
    x, index = case.rows(400, seed=58)
    k = case.n_components
    for dtype, tolerances in ((torch.float64, (1e-9, 0.0)), (torch.float32, (1e-3, 1e-9, 0.0))):
        rows, weights = x.to(dtype), row_weights(400, seed=59).to(dtype)
        problem = case.problem(rows, weights)
        family, frame = problem.family, problem.frame
        params, log_weights = start_from_code(problem, near(index, k, seed=60), k)
        z = frame.apply(rows.double())
        exact = family.log_likelihood(params, z) + log_weights
        reach = (z.abs() / problem.magnitude.clamp_min(1e-12)).amax(1).clamp_min(1.0).square()
        for tolerance in tolerances:
            setting = PassSetting(dtype, Workspace(), problem.magnitude, tolerance)
            kernel = family.kernel(params, log_weights, setting)
            _require_kernel(kernel, rows, frame, exact, tolerance, reach)
            _require_kernel_sums(family, params, kernel, rows, frame, index, weights)
            expanded = kernel.expand(rows, frame)
            left_out = kernel.row_offset(expanded)
            total = 0.0 if left_out is None else float(weights.double() @ left_out.double())
            offset = kernel.offset(family.pooled(z, weights))
            stated = 0.0 if offset is None else float(offset[0])
            require(
                abs(stated - total) <= max(10 * tolerance, 1e-9) * 400 + 1e-6 * abs(total),
                f"{type(kernel).__name__} in {kernel.dtype}: offset(pooled) is {stated:.12g}, the row offsets add "
                f"up to {total:.12g}",
            )
        generic = Kernel(family, params, log_weights, torch.float64, Workspace())
        _require_kernel(generic, rows, frame, exact, 1e-9, reach)
        _require_kernel_sums(family, params, generic, rows, frame, index, weights)


def pooled_sums_add_up(case: Case) -> None:
    """What no code weighs is the same in blocks, in the statistics, and alone."""
    x, index = case.rows(50, seed=61)
    code = HardCode(index, case.n_components)
    for weights in (None, row_weights(50, seed=62)):
        whole = case.family.pooled(x, weights)
        own = getattr(case.family.statistics(case.params, x, code, weights), "pooled", None)
        require((whole is None) == (own is None), "pooled and the pooled sums of statistics: one is absent")
        if whole is None or own is None:
            continue
        require(whole.dtype == torch.float64, f"pooled sums are {whole.dtype}")
        require_same_sums(own, whole, 1e-12, "pooled sums of statistics")
        halves: list[Any] = [
            case.family.pooled(x[part], None if weights is None else weights[part])
            for part in (slice(0, 20), slice(20, 50))
        ]
        require_same_sums(halves[0] + halves[1], whole, 1e-12, "pooled sums of two blocks")


# Values


def float32_in_float32_out(case: Case) -> None:
    """Densities and decoded rows come in the dtype of what was asked, near those in float64."""
    x, _ = case.rows(100, seed=63)
    code = simplex(100, case.n_components, seed=64)
    for what, single, double in (
        (
            "log_likelihood",
            case.family.log_likelihood(case.params, x.float()),
            case.family.log_likelihood(case.params, x.float().double()),
        ),
        ("decode", case.family.decode(case.params, code.float()), case.family.decode(case.params, code)),
    ):
        require(single.dtype == torch.float32, f"{what} of float32 is {single.dtype}")
        require(double.dtype == torch.float64, f"{what} of float64 is {double.dtype}")
        require_close(single, double, _SINGLE, f"{what} in float32")


def devices_are_kept(case: Case) -> None:
    """Where parameters, rows and code live, there lives every result; asked where there is another device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, index = case.rows(50, seed=65)
    params, rows = case.params.to(device), x.to(device)
    family, k = case.family, case.n_components
    for code in (simplex(50, k, seed=66).to(device), HardCode(index.to(device), k)):
        statistics = family.statistics(params, rows, code, row_weights(50, seed=67).to(device))
        generator = torch.Generator(device).manual_seed(68)
        results = {
            "log_likelihood": family.log_likelihood(params, rows),
            "statistics": statistics,
            "maximize": family.maximize(statistics),
            "decode": family.decode(params, code),
            "sample": family.sample(params, index.to(device), generator),
            "seeding_view": family.seeding_view(rows),
            "take": params.take(index.to(device)),
        }
        for what, result in results.items():
            for path, tensor in tensors(result):
                require(
                    tensor.device.type == device.type, f"{what} {path} is on {tensor.device}, not {device}"
                )
    there = family.log_likelihood(params, rows).cpu()
    require_close(there, family.log_likelihood(case.params, x), 1e-10, f"log_likelihood on {device}")


def inputs_are_left_unchanged(case: Case) -> None:
    """No verb writes into rows, codes, weights, parameters or sums, and the values are frozen."""
    x, index = case.rows(50, seed=69)
    k, weights = case.n_components, row_weights(50, seed=70)
    soft, hard = simplex(50, k, seed=71), HardCode(index, k)
    statistics = case.family.statistics(case.params, x, soft)
    given: dict[str, Any] = {
        "the rows": x,
        "the soft code": soft,
        "the hard code": index,
        "the weights": weights,
        "the parameters": case.params,
        "the statistics": statistics,
    }
    before = {what: copied(value) for what, value in given.items()}
    verbs: dict[str, Callable[[], Any]] = {
        "log_likelihood": lambda: case.family.log_likelihood(case.params, x),
        "statistics": lambda: [
            case.family.statistics(params, x, code, row_weight)
            for params in (case.params, None)
            for code in (soft, hard)
            for row_weight in (weights, None)
        ],
        "maximize": lambda: case.family.maximize(statistics),
        "+": lambda: statistics + statistics.scaled(2.0),
        "decode": lambda: [case.family.decode(case.params, code) for code in (soft, hard)],
        "sample": lambda: case.family.sample(case.params, index, random(72)),
        "pooled": lambda: case.family.pooled(x, weights),
        "seeding_view": lambda: case.family.seeding_view(x),
        "take and put": lambda: case.params.put(torch.tensor([0]), case.params.take(torch.tensor([0]))),
        "n_parameters": lambda: case.family.n_parameters(case.params),
    }
    for verb, call in verbs.items():
        call()
        for what, value in given.items():
            for (path, tensor), old in zip(tensors(value), before[what], strict=True):
                require_same_bits(tensor, old, f"{verb} changed {what}{path and ', '}{path}")
    values: list[Any] = [case.family, case.params, statistics, case.family.maximize(statistics)]
    for value in values:
        for field in fields(value):
            try:
                setattr(value, field.name, getattr(value, field.name))
            except FrozenInstanceError:
                continue
            raise AssertionError(f"{type(value).__name__}.{field.name} can be set: not frozen")


def values_survive_pickling(case: Case) -> None:
    """Family, parameters and statistics reach a worker bit for bit."""
    x, _ = case.rows(20, seed=73)
    statistics = case.family.statistics(case.params, x, simplex(20, case.n_components, seed=74))
    for value in (case.params, statistics):
        require_same_bits(pickle.loads(pickle.dumps(value)), value, f"a pickled {type(value).__name__}")
    family = pickle.loads(pickle.dumps(case.family))
    require(family == case.family, f"a pickled family is {family!r}, not {case.family!r}")
    require_same_bits(
        family.log_likelihood(case.params, x),
        case.family.log_likelihood(case.params, x),
        "log_likelihood of a pickled family",
    )


def probabilities_are_refused_as_log_weights(case: Case) -> None:
    """The autoencoder of this family takes logarithms of weights that sum to one, and nothing else."""
    k = case.n_components
    frame = Frame.identity(case.rows(1, seed=0)[0].shape[1])

    def model(log_weights: Tensor) -> MixtureAutoencoder:
        return MixtureAutoencoder(case.family, case.params, log_weights, Posterior(), frame, frame.scale)

    total = float(model(case.log_weights).log_weights.exp().sum())
    require(abs(total - 1) < 1e-12, f"the weights sum to {total}")
    for what, wrong in (
        ("probabilities", case.log_weights.exp()),
        ("log-weights that sum to two", case.log_weights + 0.6931),
        ("NaN", case.log_weights * float("nan")),
        (
            "one weight too many",
            torch.full((k + 1,), -float(torch.tensor(k + 1.0).log()), dtype=torch.float64),
        ),
    ):
        try:
            model(wrong)
        except ValueError:
            continue
        raise AssertionError(f"MixtureAutoencoder took {what} for log_weights: {wrong.tolist()}")


LAWS: tuple[Callable[[Case], None], ...] = (
    sums_over_blocks_equal_the_whole,
    weights_are_repetitions,
    a_hard_code_is_its_one_hot_code,
    sums_are_in_double_precision,
    pooled_sums_add_up,
    maximize_does_not_see_how_many_rows_there_are,
    maximize_is_stationary,
    maximize_is_a_maximum,
    maximize_is_exact_on_its_floor,
    a_step_at_a_fixed_code_never_lowers_the_objective,
    mixtures_side_by_side_are_each_themselves,
    empty_components_and_repeated_rows_stay_finite,
    n_parameters_counts_the_free_directions,
    samples_lie_in_the_domain,
    density.the_density_sums_to_one,
    the_score_has_zero_mean,
    a_decoded_component_is_the_mean_of_its_samples,
    alternation.parameters_are_recovered_from_samples,
    components_can_be_taken_and_put,
    missing.whole_rows_are_observed_as_they_are,
    missing.what_is_not_seen_tells_nothing,
    missing.a_step_on_incomplete_rows_never_lowers_their_likelihood,
    units_change_nothing,
    kernels_agree_with_the_density,
    float32_in_float32_out,
    devices_are_kept,
    inputs_are_left_unchanged,
    values_survive_pickling,
    probabilities_are_refused_as_log_weights,
)
"""What every family obeys by itself."""


def check_family(
    family: Family[Any, Any] | type[Family[Any, Any]],
    params: Params | None = None,
    *,
    encoders: Sequence[Encoder] | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Run every law of a family, by itself and with every encoder.

    Parameters
    ----------
    family : Family, or a class of them
        A class is checked on its ``examples()``, an instance on ``params``.
    params : Params, optional
        Parameters to draw rows from: components that can be told apart, in working coordinates (centred near
        zero, of a spread near one), as a fit sees them.
    encoders : sequence of Encoder, optional
        Encoders to alternate with; all of :mod:`mixcoder.encoders` by default.
    skip : iterable of str
        Names of laws to leave out, as in ``("the_density_sums_to_one",)``.

    Raises
    ------
    AssertionError
        Lists every law that is broken, with the numbers.

    Examples
    --------
    >>> from mixcoder.components import Bernoulli
    >>> check_family(Bernoulli, skip=["parameters_are_recovered_from_samples"])
    """
    if isinstance(family, type):
        if params is not None:
            raise AssertionError(f"Give an instance of {family.__name__} together with its params.")
        cases = cases_of(family)
    elif params is None:
        name = type(family).__name__
        raise AssertionError(
            f"Give params together with an instance, or the class {name} to check its examples()."
        )
    else:
        cases = [Case(family, params, type(family).__name__)]
    left_out = set(skip)
    known = {law.__name__ for law in (*LAWS, *alternation.LAWS)}
    if not left_out <= known:
        raise AssertionError(f"No such laws: {sorted(left_out - known)}; there are {sorted(known)}.")
    run(check for check in _checks(cases, encoders) if check.law.__name__ not in left_out)


def family_checks(
    families: Iterable[type[Family[Any, Any]]] | None = None, *, encoders: Sequence[Encoder] | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a name and a callable for every law of every example of every family.

    Parameters
    ----------
    families : iterable of classes, optional
        All of :mod:`mixcoder.components`, found by discovery, by default.
    encoders : sequence of Encoder, optional
        All of :mod:`mixcoder.encoders` by default.

    Examples
    --------
    In a test file::

        checks = dict(family_checks([MyFamily]))


        @pytest.mark.parametrize("name", checks)
        def test_my_family(name):
            checks[name]()

    One of them at a time:

    >>> from mixcoder.components import Bernoulli
    >>> name, law = next(family_checks([Bernoulli]))
    >>> law()
    """
    for family in discover(components, Family) if families is None else families:
        for check in _checks(cases_of(family), encoders):
            yield check.name, check


def cases_of(family: type[Family[Any, Any]]) -> list[Case]:
    """Return the examples of a family, named; none at all is an error."""
    examples = list(family.examples())
    if not examples:
        raise AssertionError(f"{family.__name__}.examples() is empty: there is nothing to check it on.")
    return [Case(one, params, f"{family.__name__}[{i}]") for i, (one, params) in enumerate(examples)]


def _checks(cases: Iterable[Case], encoders: Sequence[Encoder] | None) -> Iterator[Check]:
    named = alternation.named_encoders(encoders)
    for case in cases:
        for law in LAWS:
            yield Check(law, case)
        for label, encoder in named:
            pair = alternation.Pair(case, encoder, f"{case.name}-{label}")
            for pair_law in alternation.LAWS:
                yield Check(pair_law, pair)


def _require_kernel(
    kernel: Kernel[Any, Any], rows: Tensor, frame: Frame, exact: Tensor, tolerance: float, reach: Tensor
) -> None:
    """Raise unless a kernel's densities are right on all rows, and on a part of them afterwards."""
    for part in (slice(None), slice(100, 137)):
        expanded = kernel.expand(rows[part], frame)
        found = kernel.log_joint(expanded).double()
        offset = kernel.row_offset(expanded)
        if offset is not None:
            found = found + offset.double()[:, None]
        error = (found - exact[part]).abs()
        allowed = _SLACK * tolerance * reach[part, None] + _RESULT[kernel.dtype] * (10 + exact[part].abs())
        worst = int((error / allowed).argmax())
        row, column = divmod(worst, exact.shape[1])
        require(
            bool((error <= allowed).all()),
            f"{type(kernel).__name__} in {kernel.dtype} on {rows.dtype} rows, tolerance {tolerance:g}: log_joint of "
            f"row {row}, component {column} is {float(found[row, column]):.12g}, expected "
            f"{float(exact[part][row, column]):.12g}",
        )


def _require_kernel_sums(
    family: Family[Any, Any],
    params: Params,
    kernel: Kernel[Any, Any],
    rows: Tensor,
    frame: Frame,
    index: Tensor,
    weights: Tensor,
) -> None:
    """Raise unless a kernel's sums are the family's, for soft and hard codes, with weights and without."""
    k = params.n_components
    z = frame.apply(rows.double())
    for code in (near(index, k, seed=75), HardCode(index, k)):
        for row_weight in (None, weights):
            expanded = kernel.expand(rows, frame)
            kernel.log_joint(expanded)
            own = code if isinstance(code, HardCode) else code.to(kernel.dtype, copy=True)
            found = kernel.statistics(expanded, own, row_weight)
            expected = family.statistics(params, z, code, None if row_weight is None else row_weight.double())
            for path, tensor in tensors(found):
                require(
                    tensor.dtype == torch.float64, f"{path} of a pass in {kernel.dtype} is {tensor.dtype}"
                )
            if getattr(found, "pooled", None) is None and hasattr(expected, "pooled"):
                expected = replace(
                    cast("Any", expected), pooled=None
                )  # added up once a fit, not by every pass
            limit = 1e-12 if kernel.dtype == torch.float64 else 1e-5
            require_same_sums(
                found, expected, limit, f"{type(kernel).__name__} in {kernel.dtype}: statistics"
            )


def _counts(code: Code, weights: Tensor | None) -> Tensor:
    dense = code.dense(torch.float64) if isinstance(code, HardCode) else code
    return dense.sum(0) if weights is None else weights @ dense


def _few(values: Tensor) -> str:
    return ", ".join(f"{float(value):.2g}" for value in values)
