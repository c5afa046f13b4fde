"""The laws of a family with an encoder: the bound never falls, travels inside the sums, and leads to the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder import encoders as encoder_package
from mixcoder._typing import HardCode
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.checks.case import (
    Case,
    near,
    random,
    require,
    require_close,
    require_same_bits,
    require_same_sums,
    row_weights,
)
from mixcoder.checks.discovery import discover
from mixcoder.encoders import Encoder, Posterior
from mixcoder.fitting.alternate import Step, alternate, gain_below
from mixcoder.fitting.fit import found_start, start_from_code

# A bound is a mean of rounded terms of its own size.
_ROUNDING = 1e-9

# Twice the rows times the divergence is chi-squared with as many degrees of freedom as a component has
# parameters, and a little more where components overlap: this many times that number is no chance.
_RECOVERY = 8.0


@dataclass(frozen=True)
class Pair:
    """A family with parameters, and an encoder to alternate with."""

    case: Case
    encoder: Encoder
    name: str


def the_bound_never_falls(pair: Pair) -> None:
    """Along an alternation the encoder's bound only rises: with row weights and without, accelerated and plain.

    An encoder with a schedule is held to it once the schedule has settled; an iteration in which a component
    was refilled is followed by another rise.
    """
    case = pair.case
    x, index = case.rows(400, seed=80)
    code = near(index, case.n_components, seed=81, share=0.6)
    for weights, accelerate in ((None, False), (row_weights(400, seed=82), True)):
        problem = case.problem(x, weights)
        start = start_from_code(problem, code, case.n_components)
        steps: list[Step] = []
        result = alternate(
            problem,
            *start,
            pair.encoder,
            max_iter=30,
            stop=lambda step: None,
            accelerate=accelerate,
            monotone=False,
            on_step=lambda step, steps=steps: bool(steps.append(step)),
        )
        how = "accelerated, with row weights" if accelerate else "plain"
        require(len(steps) >= 5, f"{how}: only {len(steps)} steps were made: {result.reason}")
        for step in steps:
            require(
                math.isfinite(step.bound), f"{how}: the bound is {step.bound} in iteration {step.iteration}"
            )
            fall = -step.gain
            require(
                fall <= _ROUNDING * (1 + abs(step.bound)),
                f"{how}: the bound fell by {fall:.3g} to {step.bound:.9g} in iteration {step.iteration}",
            )
        if not result.history.events:
            pairs = zip(result.history.bound, result.history.beta, strict=True)
            for (before, old), (after, new) in itertools.pairwise(pairs):
                require(
                    old != new or after >= before - _ROUNDING * (1 + abs(after)),
                    f"{how}: the history of the bound falls from {before:.9g} to {after:.9g}",
                )
        # A code may find fewer components than there are; whatever it finds explains rows better than the start.
        require(
            not steps[0].encoder.settled or steps[-1].bound >= steps[0].bound - _ROUNDING,
            f"{how}: the bound went from {steps[0].bound:.9g} to {steps[-1].bound:.9g}",
        )


def weights_sum_to_one_in_every_step(pair: Pair) -> None:
    """Log-weights are logarithms of weights that sum to one: a bound rises as well with what is no density."""
    case = pair.case
    x, index = case.rows(400, seed=92)
    problem = case.problem(x)
    params, log_weights = start_from_code(problem, near(index, case.n_components, seed=93), case.n_components)
    for iteration in range(4):
        total = float(log_weights.exp().sum())
        require(
            abs(total - 1) <= 1e-9,
            f"after {iteration} steps exp(log_weights) sums to {total:.9g}: {log_weights.tolist()}",
        )
        totals = problem.totals(params, log_weights, pair.encoder)
        params, log_weights = problem.maximize(totals.statistics, log_weights)
    problem.model(params, log_weights, pair.encoder)


def the_bound_travels_inside_the_sums(pair: Pair) -> None:
    """What a pass adds up is the encoder's own bound of its own code at log p(x, k), and that code's statistics."""
    case = pair.case
    x, index = case.rows(2500, seed=83)
    for weights in (None, row_weights(2500, seed=84)):
        problem = case.problem(x, weights)
        params, log_weights = start_from_code(
            problem, near(index, case.n_components, seed=85), case.n_components
        )
        totals = problem.totals(params, log_weights, pair.encoder)
        z = problem.frame.apply(x)
        log_joint = problem.family.log_likelihood(params, z) + log_weights
        code = pair.encoder.encode(log_joint)
        bound = pair.encoder.bound(log_joint, code) + problem.frame.log_scale
        expected = float(bound.sum() if weights is None else weights @ bound)
        sums = problem.family.statistics(params, z, code, weights)
        log_prior = problem.family.log_prior(params, sums)
        if log_prior is not None:
            expected += float(log_prior.sum())
        require(
            abs(float(totals.bound) - expected) <= 1e-8 * (2500 + abs(expected)),
            f"the pass adds the bound up to {float(totals.bound):.12g}, row by row it is {expected:.12g}",
        )
        weight = 2500.0 if weights is None else float(weights.sum())
        require(
            abs(float(totals.weight) - weight) <= 1e-9 * weight,
            f"weight is {float(totals.weight)}, not {weight}",
        )
        require_same_sums(totals.statistics, sums, 1e-9, "statistics of a pass")


def the_autoencoder_reads_rows_block_by_block(pair: Pair) -> None:
    """Encoding, log-densities and reconstruction in blocks are those of the family and the encoder, row by row."""
    case = pair.case
    x, index = case.rows(3000, seed=86)
    problem = case.problem(x)
    params, log_weights = start_from_code(problem, near(index, case.n_components, seed=87), case.n_components)
    model = problem.model(params, log_weights, pair.encoder)
    before = x.clone()
    log_joint = model.log_likelihood(x) + log_weights
    require_close(model.log_joint(x), log_joint, 1e-9, "log_joint")
    require_close(model.log_prob(x), torch.logsumexp(log_joint, 1), 1e-9, "log_prob")
    code, expected = model.encode(x), pair.encoder.encode(log_joint)
    require(
        isinstance(code, HardCode) == isinstance(expected, HardCode), f"encode gives a {type(code).__name__}"
    )
    if isinstance(code, HardCode) and isinstance(expected, HardCode):
        require(bool((code.index == expected.index).all()), "encode picks other components than the encoder")
    else:
        require_close(code, expected, 1e-7, "encode")
    require(bool((model.assign(x) == log_joint.argmax(1)).all()), "assign is not the most probable component")
    decoded = model.decode(expected)
    rows = model.reconstruct(x)
    # A decoder that picks a category may pick the other one on a tie.
    agree = (rows - decoded).abs().amax(1) <= 1e-7 * (1 + decoded.abs().amax(1))
    n_other = int((~agree).sum())
    require(n_other <= 3, f"reconstruct differs from decode(encode) in {n_other} of {len(x)} rows")
    require_same_bits(x, before, "the rows after encode, log_prob and reconstruct")
    single = model.log_prob(x.float())
    require(single.dtype == torch.float32, f"log_prob of float32 rows is {single.dtype}")
    exact = model.log_prob(x.float().double())
    gap = (single.double() - exact).abs() / (1 + exact.abs())
    require(float(gap.max()) <= 1e-4, f"log_prob in float32 is off by {float(gap.max()):.2g}, relative")


def parameters_are_recovered_from_samples(case: Case) -> None:
    """A fit to samples finds the parameters they were drawn from, up to an error that falls as N^-1/2.

    Components are matched, and their distance is the divergence of their densities: N times it stays bounded, for
    few rows and for many. The first fit starts from nothing but the rows.
    """
    k = case.n_components
    freedom = case.family.n_parameters(case.params) / k
    for n, rule in ((1000, "found"), (16_000, "from the code")):
        x, index = case.rows(n, seed=88)
        problem = case.problem(x)
        if rule == "found":
            start = found_start(problem, k, Posterior(), random(89))
        else:
            start = start_from_code(problem, near(index, k, seed=90, share=0.2), k)
        model = alternate(
            problem, *start, Posterior(), max_iter=200, stop=gain_below(1e-9), accelerate=True
        ).model
        divergences = _divergences(case, model)
        order = min(
            itertools.permutations(range(k)),
            key=lambda order: float(sum(divergences[i, j] for i, j in enumerate(order))),
        )
        weights = case.log_weights.exp()
        for i, j in enumerate(order):
            apart = float(divergences[i, j])
            score = 2 * n * float(weights[i]) * apart
            require(
                score <= _RECOVERY * (freedom + 2),
                f"component {i} of {n} rows ({rule}) is recovered with a divergence of {apart:.3g} nats: {score:.4g} "
                f"when scaled by its rows, where {freedom:.3g} parameters leave about {freedom:.3g}",
            )
            share, error = (
                float(model.log_weights[j].exp()),
                float((weights[i] * (1 - weights[i]) / n).sqrt()),
            )
            require(
                abs(share - float(weights[i])) <= 6 * error,
                f"component {i} of {n} rows ({rule}) has weight {share:.4g}, drawn with {float(weights[i]):.4g}",
            )


LAWS: tuple[Callable[[Pair], None], ...] = (
    the_bound_never_falls,
    weights_sum_to_one_in_every_step,
    the_bound_travels_inside_the_sums,
    the_autoencoder_reads_rows_block_by_block,
)
"""What every family obeys together with every encoder."""


def named_encoders(encoders: Sequence[Encoder] | None) -> list[tuple[str, Encoder]]:
    """Return encoders with names; by default the examples of all that there are."""
    if encoders is not None:
        return [(f"{type(encoder).__name__}[{i}]", encoder) for i, encoder in enumerate(encoders)]
    return [
        (f"{found.__name__}[{i}]", encoder)
        for found in discover(encoder_package, Encoder)
        for i, encoder in enumerate(found.examples())
    ]


def _divergences(case: Case, model: MixtureAutoencoder) -> Tensor:
    """Return the divergence of every true component from every fitted one in nats, shape (k, k)."""
    k, n = case.n_components, 4000
    drawn = torch.arange(k).repeat_interleave(n)
    rows = case.family.sample(case.params, drawn, random(91))
    own = case.family.log_likelihood(case.params, rows).gather(1, drawn[:, None])
    ratio = (model.log_likelihood(rows) - own).clamp(-50, 50)
    # E[r - 1 - log r] has the mean of -log r and, near zero, next to none of its noise.
    return (ratio.exp() - 1 - ratio).view(k, n, k).mean(1)
