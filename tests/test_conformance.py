"""Every family, encoder and source obeys the public laws; and the laws can be broken, each by its bug."""

from __future__ import annotations

import math
import re
import sys
import textwrap
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from mixcoder import checks, components, encoders, sources
from mixcoder._typing import HardCode
from mixcoder.checks import (
    check_encoder,
    check_family,
    check_source,
    discover,
    encoder_checks,
    family_checks,
    source_checks,
)
from mixcoder.components import (
    Categorical,
    ExponentialFamily,
    Family,
    GaussianDiagonal,
    GaussianFull,
    GaussianSpherical,
    GaussianTied,
    GaussianTiedSpherical,
    Params,
    Poisson,
)
from mixcoder.components.base import decode_means
from mixcoder.components.exponential import FeatureKernel
from mixcoder.encoders import Argmax, Encoder, Posterior, Tempered
from mixcoder.fitting import em
from mixcoder.objectives import free_energy
from mixcoder.ops.gaussian import LOG_2PI, safe_means
from mixcoder.sources import Source, TensorSource
from mixcoder.statistics import Moments, Statistics

CHECKS: dict[str, Callable[[], None]] = {}
for _name, _check in (*family_checks(), *encoder_checks(), *source_checks()):
    assert _name not in CHECKS, f"two checks are called {_name}"
    CHECKS[_name] = _check


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # A few hundred rows are no work for two threads; the laws about threads set their own number.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CHECKS)
def test_law(name):
    CHECKS[name]()


# What the suite collects


def test_every_class_is_checked_with_every_law():
    assert {re.split(r"[\[-]", name)[0] for name in CHECKS} == {
        found.__name__
        for package, base in ((components, Family), (encoders, Encoder), (sources, Source))
        for found in discover(package, base)
    }
    n_encoders = sum(len(found.examples()) for found in discover(encoders, Encoder))
    for family in discover(components, Family):
        for place in range(len(family.examples())):
            laws = [name for name in CHECKS if name.startswith(f"{family.__name__}[{place}]-")]
            assert sum("the_bound_never_falls" in name for name in laws) == n_encoders
            assert len(laws) == len(checks.family.LAWS) + n_encoders * len(checks.alternation.LAWS)


@pytest.mark.parametrize(("package", "base"), [(components, Family), (encoders, Encoder), (sources, Source)])
def test_concrete_classes_are_final_and_live_in_the_file_of_their_name(package, base):
    for found in discover(package, base):
        assert getattr(found, "__final__", False), f"{found.__name__} is not marked @final"
        file_name = found.__module__.split(".")[-1]
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found.__name__).lower()
        assert file_name == snake or base is Source


def package_of(folder: Path, name: str, exports: Sequence[str], source: str) -> types.ModuleType:
    """Write and import a package with one module."""
    home = folder / name
    home.mkdir()
    (home / "__init__.py").write_text(
        "".join(f"from {name}.rules import {entry}\n" for entry in exports) + f"__all__ = {list(exports)}\n"
    )
    (home / "rules.py").write_text(textwrap.dedent(source))
    __import__(name)
    return sys.modules[name]


RULES = """
    from mixcoder.encoders import Argmax, Encoder, Posterior
    class Base(Encoder): ...
    class First(Posterior): ...
    class Second(Posterior): ...
    class _Private(Posterior): ...
"""


def test_a_class_that_is_not_exported_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = package_of(tmp_path, "forgetful_rules", ["First"], RULES)
    with pytest.raises(AssertionError, match=r"add to forgetful_rules\.__init__: \['Second'\]"):
        discover(package, Encoder)
    complete = package_of(tmp_path, "complete_rules", ["Second", "First"], RULES)
    assert [found.__name__ for found in discover(complete, Encoder)] == ["First", "Second"]


def test_a_suite_that_collects_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = package_of(tmp_path, "empty_rules", [], "from mixcoder.encoders import Posterior\n")
    with pytest.raises(AssertionError, match="empty_rules has no concrete Encoder"):
        discover(package, Encoder)

    class NoExamples(GaussianDiagonal):
        @classmethod
        def examples(cls):
            return []

    with pytest.raises(AssertionError, match=r"NoExamples.examples\(\) is empty"):
        check_family(NoExamples)
    every = [law.__name__ for law in (*checks.family.LAWS, *checks.alternation.LAWS)]
    with pytest.raises(AssertionError, match="No check was collected"):
        check_family(GaussianDiagonal, skip=every)
    with pytest.raises(AssertionError, match=r"No such laws: \['the_moon_is_round'\]"):
        check_family(GaussianDiagonal, skip=["the_moon_is_round"])


# Classes of others: the laws hold for what this package never heard of


@dataclass(frozen=True)
class ExponentialParams(Params):
    rates: Tensor


@dataclass(frozen=True)
class Exponential(ExponentialFamily[ExponentialParams]):
    """Waiting times: one positive column, log p = log rate - rate x."""

    def width(self, n_features):
        return 1 + n_features

    def write_features(self, x, out):
        out.copy_(x)

    def natural(self, params):
        return torch.cat([params.rates.log().sum(1, keepdim=True), -params.rates], 1)

    def maximize(self, statistics):
        return ExponentialParams(1 / safe_means(statistics.counts, statistics.sums).clamp_min(1e-300))

    def decode(self, params, code):
        return decode_means(1 / params.rates, code)

    def sample(self, params, index, generator):
        uniform = torch.rand(len(index), 1, generator=generator, dtype=torch.float64)
        return -torch.log1p(-uniform) / params.rates[index]

    def check_rows(self, x):
        return None if bool((x > 0).all()) else "waiting times are positive"

    @classmethod
    def examples(cls):
        return [(cls(), ExponentialParams(torch.tensor([[0.02], [3.0]], dtype=torch.float64)))]


@dataclass(frozen=True)
class GeometricParams(Params):
    chances: Tensor


@dataclass(frozen=True)
class GeometricSums(Statistics):
    counts: Tensor
    failures: Tensor


@dataclass(frozen=True)
class Geometric(Family[GeometricParams, GeometricSums]):
    """Failures before a success, in independent columns: nothing but the six verbs."""

    def log_likelihood(self, params, x):
        chances = params.chances.to(x.dtype)
        return x @ torch.log1p(-chances).T + chances.log().sum(1)

    def statistics(self, params, x, code, weights=None):
        dense = (code.dense(x.dtype) if isinstance(code, HardCode) else code).double()
        if weights is not None:
            dense = dense * weights.double()[:, None]
        return GeometricSums(dense.sum(0), dense.T @ x.double())

    def maximize(self, statistics):
        means = safe_means(statistics.counts, statistics.failures)
        return GeometricParams((1 / (1 + means)).clamp(1e-9, 1 - 1e-9))

    def decode(self, params, code):
        return decode_means(1 / params.chances - 1, code)

    def sample(self, params, index, generator):
        chances = params.chances[index]
        uniform = torch.rand(chances.shape, generator=generator, dtype=chances.dtype)
        return (torch.log1p(-uniform) / torch.log1p(-chances)).floor()

    def check_rows(self, x):
        return None if bool(((x >= 0) & (x == x.floor())).all()) else "failures are counted"

    @classmethod
    def examples(cls):
        chances = torch.tensor([[0.9, 0.05, 0.5], [0.1, 0.7, 0.05]], dtype=torch.float64)
        return [(cls(), GeometricParams(chances))]


@dataclass(frozen=True)
class Sparsemax(Encoder):
    """The maximiser of sum_k u_k h_k - |u|^2 / 2: a soft code with zeros (Martins & Astudillo 2016)."""

    def encode(self, log_joint):
        return self.encode_with_bound_(log_joint.clone())[0]

    def bound(self, log_joint, code):
        dense = code.dense(log_joint.dtype) if isinstance(code, HardCode) else code
        return free_energy(log_joint, dense, math.inf) - 0.5 * dense.square().sum(-1)

    def encode_with_bound_(self, log_joint):
        largest = log_joint.amax(-1, keepdim=True)
        lost = largest == -torch.inf
        h = (log_joint - largest.masked_fill(lost, 0.0)).masked_fill(lost, 0.0)
        descending = h.sort(-1, descending=True).values
        sums = descending.cumsum(-1)
        place = torch.arange(1, h.shape[-1] + 1, dtype=h.dtype)
        n_kept = (1 + place * descending > sums).sum(-1, keepdim=True)
        threshold = (sums.gather(-1, n_kept - 1) - 1) / n_kept
        code = (h - threshold).clamp_min(0)
        bound = torch.where(code > 0, code * h, 0.0).sum(-1) - 0.5 * code.square().sum(-1) + largest[..., 0]
        return log_joint.copy_(code), bound

    @classmethod
    def examples(cls):
        return [cls()]


@pytest.mark.parametrize("family", [Exponential, Geometric])
def test_a_family_of_others_is_checked_like_our_own(family):
    check_family(family)


def test_an_encoder_of_others_is_checked_like_our_own():
    check_encoder(Sparsemax)
    check_family(GaussianFull, encoders=[Sparsemax()], skip=["parameters_are_recovered_from_samples"])


def test_a_family_can_be_checked_with_parameters_of_ones_own():
    family, params = GaussianFull.examples()[1]
    check_family(family, params.take(torch.tensor([1, 0])), encoders=[Argmax()])
    check_family(family, params.take(torch.tensor([1])), encoders=[Posterior()])
    with pytest.raises(AssertionError, match="Give params together with an instance"):
        check_family(family)
    with pytest.raises(AssertionError, match="Give an instance of GaussianFull"):
        check_family(GaussianFull, params)


# Planted bugs: which law catches what


class VarianceAsStd(GaussianDiagonal):
    """pomegranate's."""

    def sample(self, params, index, generator):
        return super().sample(replace(params, variances=params.variances.square()), index, generator)


class LogDetWithoutDimension(GaussianSpherical):
    """-log(variance)/2 where d log(variance)/2 belongs."""

    def log_likelihood(self, params, x):
        surplus = 0.5 * (x.shape[1] - 1) * params.variances.log()
        return super().log_likelihood(params, x) + surplus.to(x.dtype)

    def natural(self, params):
        natural = super().natural(params)
        natural[:, 0] += 0.5 * (params.means.shape[1] - 1) * params.variances.log()
        return natural


class WithoutTwoPi(GaussianFull):
    def log_likelihood(self, params, x):
        return super().log_likelihood(params, x) + 0.5 * x.shape[1] * LOG_2PI

    def natural(self, params):
        natural = super().natural(params)
        natural[:, 0] += 0.5 * params.means.shape[1] * LOG_2PI
        return natural


class WithoutTwoPiInThePassOnly(GaussianFull):
    def natural(self, params):
        natural = super().natural(params)
        natural[:, 0] += 0.5 * params.means.shape[1] * LOG_2PI
        return natural


class DropsTheLastRow(GaussianDiagonal):
    def statistics(self, params, x, code, weights=None):
        code = HardCode(code.index[:-1], code.n_components) if isinstance(code, HardCode) else code[:-1]
        return super().statistics(params, x[:-1], code, None if weights is None else weights[:-1])


class SlightlyWrongMean(GaussianFull):
    """A hundredth of a per cent of a standard deviation off."""

    def maximize(self, statistics):
        params = super().maximize(statistics)
        return replace(params, means=params.means + 1e-4)


class DividesByNMinusOne(GaussianDiagonal):
    def maximize(self, statistics):
        params = super().maximize(statistics)
        n = statistics.counts[:, None]
        return replace(params, variances=params.variances * n / (n - 1))


class ForgetsWeights(GaussianDiagonal):
    def statistics(self, params, x, code, weights=None):
        return super().statistics(params, x, code)


class WritesIntoTheCode(GaussianDiagonal):
    def statistics(self, params, x, code, weights=None):
        if weights is not None and isinstance(code, Tensor):
            code.mul_(weights[:, None])
            weights = None
        return super().statistics(params, x, code, weights)


class DividesByNothing(GaussianDiagonal):
    """The textbook's M-step: 0/0 for a component without rows."""

    def maximize(self, statistics):
        params = super().maximize(statistics)
        return replace(params, means=statistics.sums.chunk(2, 1)[0] / statistics.counts[:, None])


class Float64Whatever(GaussianDiagonal):
    def log_likelihood(self, params, x):
        return super().log_likelihood(params, x.double())


class SumsInSinglePrecision(GaussianDiagonal):
    def statistics(self, params, x, code, weights=None):
        found = super().statistics(params, x, code, weights)
        return Moments(found.counts, found.sums.float())


class OneParameterTooMany(GaussianFull):
    def n_parameters(self, params):
        return super().n_parameters(params) + 1


class CovariancesCountedTwice(GaussianFull):
    """d^2 for a symmetric matrix."""

    def n_parameters(self, params):
        return params.means.numel() + params.covariances.numel()


class GlobalRandomness(GaussianDiagonal):
    def sample(self, params, index, generator):
        noise = torch.randn(len(index), params.means.shape[1], dtype=torch.float64)
        return params.means[index] + params.variances.sqrt()[index] * noise


class DecodesToTheNeighbour(GaussianFull):
    def decode(self, params, code):
        return super().decode(replace(params, means=params.means + 0.1), code)


class DecodesTooFarOut(GaussianFull):
    """By one percent."""

    def decode(self, params, code):
        return 1.01 * super().decode(params, code)


class DrawsTooWide(GaussianFull):
    """Around the right mean, by two percent."""

    def sample(self, params, index, generator):
        means = params.means[index]
        return means + 1.02 * (super().sample(params, index, generator) - means)


class DrawsTooFarOut(GaussianDiagonal):
    def sample(self, params, index, generator):
        return 1.02 * super().sample(params, index, generator)


class DrawsTooManyEvents(Poisson):
    """By two percent of the rates."""

    def sample(self, params, index, generator):
        return super().sample(replace(params, rates=1.02 * params.rates), index, generator)


class DecodesToTheRarest(Categorical):
    def decode(self, params, code):
        probabilities = decode_means(params.log_probabilities.exp(), code)
        return torch.stack([column.argmin(1) for column in self._columns(probabilities)], 1).double()


class ForgetsTheRowTerms(GaussianTied):
    def kernel(self, params, log_weights, setting):
        kernel = super().kernel(params, log_weights, setting)
        return replace(kernel, common=None) if isinstance(kernel, FeatureKernel) else kernel


class KeepsItsUnits(GaussianTiedSpherical):
    """A variance in the units of the rows, used in working coordinates."""

    def in_frame(self, frame):
        return self


class RefusesItsOwnRows(GaussianDiagonal):
    def check_rows(self, x):
        return "Row 0 is negative." if bool((x < 0).any()) else None


class Thawed(GaussianDiagonal):
    """A family that remembers: frozen no more."""

    def maximize(self, statistics):
        found = super().maximize(statistics)
        return ThawedParams(found.means, found.variances)


@dataclass
class ThawedParamsBase:
    means: Tensor
    variances: Tensor


class ThawedParams(ThawedParamsBase):
    shared: ClassVar[tuple[str, ...]] = ()
    n_components = property(lambda self: len(self.means))

    def to(self, device=None, dtype=None):
        return ThawedParams(self.means.to(device, dtype), self.variances.to(device, dtype))

    def take(self, index):
        return ThawedParams(self.means[index], self.variances[index])


FAMILY_BUGS: dict[type, set[str]] = {
    VarianceAsStd: {"the_score_has_zero_mean", "parameters_are_recovered_from_samples"},
    LogDetWithoutDimension: {
        "maximize_is_stationary",
        "maximize_is_a_maximum",
        "the_density_sums_to_one",
        "the_score_has_zero_mean",
        "the_bound_never_falls",
    },
    WithoutTwoPi: {"the_density_sums_to_one"},
    WithoutTwoPiInThePassOnly: {"kernels_agree_with_the_density", "the_bound_travels_inside_the_sums"},
    DropsTheLastRow: {"sums_over_blocks_equal_the_whole", "kernels_agree_with_the_density"},
    SlightlyWrongMean: {"maximize_is_stationary"},
    DividesByNMinusOne: {"maximize_is_stationary", "maximize_does_not_see_how_many_rows_there_are"},
    ForgetsWeights: {"weights_are_repetitions", "sums_over_blocks_equal_the_whole"},
    WritesIntoTheCode: {"inputs_are_left_unchanged"},
    DividesByNothing: {"empty_components_and_repeated_rows_stay_finite"},
    Float64Whatever: {"float32_in_float32_out"},
    SumsInSinglePrecision: {"sums_are_in_double_precision", "sums_over_blocks_equal_the_whole"},
    OneParameterTooMany: {"n_parameters_counts_the_free_directions"},
    CovariancesCountedTwice: {"n_parameters_counts_the_free_directions"},
    GlobalRandomness: {"samples_lie_in_the_domain"},
    DecodesToTheNeighbour: {"a_decoded_component_is_the_mean_of_its_samples"},
    DecodesTooFarOut: {"a_decoded_component_is_the_mean_of_its_samples"},
    DrawsTooWide: {"the_score_has_zero_mean"},
    DrawsTooFarOut: {"the_score_has_zero_mean", "a_decoded_component_is_the_mean_of_its_samples"},
    DrawsTooManyEvents: {"the_score_has_zero_mean", "a_decoded_component_is_the_mean_of_its_samples"},
    DecodesToTheRarest: {"a_decoded_component_is_the_mean_of_its_samples"},
    ForgetsTheRowTerms: {"kernels_agree_with_the_density", "the_bound_travels_inside_the_sums"},
    KeepsItsUnits: {"units_change_nothing"},
    RefusesItsOwnRows: {"samples_lie_in_the_domain"},
    Thawed: {"inputs_are_left_unchanged"},
}

# Laws that must not mind: what a bug leaves right.
UNTOUCHED: dict[type, set[str]] = {
    VarianceAsStd: {"the_bound_never_falls", "maximize_is_stationary", "the_density_sums_to_one"},
    WithoutTwoPi: {"the_bound_never_falls", "maximize_is_stationary", "the_score_has_zero_mean"},
}


def broken(checks_by_name) -> set[str]:
    """Return the names of the laws that are broken."""
    messages = {}
    for name, check in checks_by_name:
        try:
            check()
        except AssertionError as error:
            messages[name] = str(error)
    for name, message in messages.items():
        subject, law = name.rsplit("-", 1)
        assert message.startswith(f"{subject} breaks the law {law.replace('_', ' ')!r}: ")
        assert len(message) > len(subject) + len(law) + 30, "no numbers"
    return {name.rsplit("-", 1)[1] for name in messages}


@pytest.mark.parametrize("family", FAMILY_BUGS)
def test_a_planted_bug_in_a_family_is_caught(family):
    caught = broken(family_checks([family], encoders=[Posterior()]))
    assert caught >= FAMILY_BUGS[family]
    assert not caught & UNTOUCHED.get(family, set())


def test_a_missing_two_pi_is_seen_by_the_density_and_by_what_is_seen_of_whole_rows():
    assert broken(family_checks([WithoutTwoPi], encoders=[Posterior(), Argmax()])) == {
        "the_density_sums_to_one",
        "whole_rows_are_observed_as_they_are",
    }


def test_check_family_lists_every_broken_law_with_its_numbers():
    with pytest.raises(AssertionError) as caught:
        check_family(VarianceAsStd, encoders=[Posterior()])
    message = str(caught.value)
    assert re.match(r"2 of \d+ checks failed\.", message)
    assert "VarianceAsStd[0] breaks the law 'the score has zero mean': component" in message
    assert "standard errors" in message


def test_probabilities_in_place_of_log_weights_are_caught(monkeypatch):
    """torch-mfa's."""
    monkeypatch.setattr(em, "log_simplex", lambda weights: weights / weights.sum())
    caught = broken(family_checks([GaussianDiagonal], encoders=[Posterior()]))
    assert "weights_sum_to_one_in_every_step" in caught


# Planted bugs in encoders


class ForgetsTheTemperature(Tempered):
    def bound(self, log_joint, code):
        return Posterior().bound(log_joint, code)


class ForgetsTheTemperatureInThePass(Tempered):
    """The sum of exponentials without its 1/beta."""

    def encode_with_bound_(self, log_joint):
        h = log_joint.clone()
        code, _ = super().encode_with_bound_(log_joint)
        return code, torch.logsumexp(self.beta * h, -1)


class Unnormalised(Posterior):
    def encode(self, log_joint):
        return super().encode(log_joint) * 1.001

    def encode_with_bound_(self, log_joint):
        code, bound = super().encode_with_bound_(log_joint)
        return code.mul_(1.001), bound


class SecondBest(Argmax):
    def encode_with_bound_(self, log_joint):
        best = super().encode_with_bound_(log_joint.clone())[0]
        if log_joint.shape[-1] == 1:
            return best, log_joint[..., 0].clone()
        log_joint.scatter_(-1, best.index[..., None], -torch.inf)
        return super().encode_with_bound_(log_joint)


class SeesTheLevel(Posterior):
    """exp without a shift: far-off rows underflow."""

    def encode(self, log_joint):
        masses = log_joint.exp()
        return masses / masses.sum(-1, keepdim=True)

    def encode_with_bound_(self, log_joint):
        masses = log_joint.exp()
        return masses / masses.sum(-1, keepdim=True), masses.sum(-1).log()


class PrefersTheFirst(Posterior):
    def encode(self, log_joint):
        return self.encode_with_bound_(log_joint.clone())[0]

    def encode_with_bound_(self, log_joint):
        log_joint[..., 0] += 0.01
        return super().encode_with_bound_(log_joint)


class WritesIntoTheLogJoint(Posterior):
    def encode(self, log_joint):
        return self.encode_with_bound_(log_joint)[0]


class NeverSettles(Tempered):
    @property
    def settled(self):
        return False


ENCODER_BUGS: dict[type, set[str]] = {
    ForgetsTheTemperature: {"a_code_maximises_its_own_bound", "the_bound_travels_inside_the_sums"},
    ForgetsTheTemperatureInThePass: {"one_sweep_gives_code_and_bound", "the_bound_travels_inside_the_sums"},
    Unnormalised: {"codes_lie_on_the_simplex"},
    SecondBest: {"a_code_maximises_its_own_bound"},
    SeesTheLevel: {"a_code_sees_only_differences", "codes_lie_on_the_simplex"},
    PrefersTheFirst: {"components_have_no_order", "a_code_maximises_its_own_bound"},
    WritesIntoTheLogJoint: {"one_sweep_gives_code_and_bound"},
    NeverSettles: {"a_schedule_settles"},
}


@pytest.mark.parametrize("encoder", ENCODER_BUGS)
def test_a_planted_bug_in_an_encoder_is_caught(encoder):
    assert broken(encoder_checks([encoder])) >= ENCODER_BUGS[encoder]


# Planted bugs in sources


class LosesTheRemainder(TensorSource):
    def map_reduce(self, function, block_rows):
        n = max(block_rows, self.n_rows - self.n_rows % block_rows)
        weights = None if self.weights is None else self.weights[:n]
        return TensorSource(self.x[:n], weights).map_reduce(function, block_rows)


class ShiftsTheWeights(TensorSource):
    def _weights(self, start, stop):
        return None if self.weights is None else self.weights.roll(1)[start:stop]


class StartsAtZero(TensorSource):
    def map_reduce(self, function, block_rows):
        return super().map_reduce(lambda block: function(replace(block, start=0)), block_rows)

    def map_rows(self, function, block_rows):
        super().map_rows(lambda block: function(replace(block, start=0)), block_rows)


class AddsByThread(TensorSource):
    def map_reduce(self, function, block_rows):
        n_threads = torch.get_num_threads()
        size = -(-self.n_rows // n_threads)
        bounds = [(a, min(a + size, self.n_rows)) for a in range(0, self.n_rows, size)]
        parts = [self._part(a, b).map_reduce(function, block_rows) for a, b in bounds]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _part(self, a, b):
        return TensorSource(self.x[a:b], None if self.weights is None else self.weights[a:b])


class HidesErrors(TensorSource):
    def map_rows(self, function, block_rows):
        try:
            super().map_rows(function, block_rows)
        except KeyError:
            return


class CountsRowsNotWeights(TensorSource):
    @property
    def total_weight(self):
        return float(self.n_rows)


class CentresInPlace(TensorSource):
    def map_reduce(self, function, block_rows):
        self.x -= self.x.mean(0)
        return super().map_reduce(function, block_rows)


SOURCE_BUGS: dict[type, set[str]] = {
    LosesTheRemainder: {"every_row_comes_once_with_its_weight", "sums_do_not_depend_on_the_blocks"},
    ShiftsTheWeights: {"every_row_comes_once_with_its_weight", "sums_do_not_depend_on_the_blocks"},
    StartsAtZero: {"every_row_comes_once_with_its_weight", "map_rows_visits_every_row"},
    AddsByThread: {"the_same_bits_whoever_adds"},
    HidesErrors: {"an_error_goes_up_and_leaves_no_trace"},
    CountsRowsNotWeights: {"a_source_knows_its_rows"},
    CentresInPlace: {"rows_are_left_unchanged"},
}


@pytest.mark.parametrize("source", SOURCE_BUGS)
def test_a_planted_bug_in_a_source_is_caught(source):
    assert broken(source_checks([source])) >= SOURCE_BUGS[source]
    with pytest.raises(AssertionError, match=source.__name__):
        check_source(source)
