"""Settings of encoders are numbers: anything else is refused in words that name it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from mixcoder.encoders import Annealed, Tempered, Truncated

NO_NUMBERS = [True, False, np.True_, "1", "warm", [1.0], 1j]


@pytest.mark.parametrize("value", [*NO_NUMBERS, None])
@pytest.mark.parametrize(
    ("make", "name"), [(Tempered, "beta"), (Tempered, "rate"), (Annealed, "ratio"), (Annealed, "tol")]
)
def test_what_is_no_number_is_refused_by_name(make, name, value):
    with pytest.raises(TypeError, match=f"{name} must be a number, got .* of type {type(value).__name__}"):
        make(**{name: value})


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(
    ("make", "name"), [(Tempered, "target_beta"), (Annealed, "start"), (Annealed, "stop")]
)
def test_what_may_be_left_out_is_a_number_when_given(make, name, value):
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        make(**{name: value})
    make(**{name: None})


@pytest.mark.parametrize("betas", [0.5, "0.5", True, (0.1, True), (0.1, "1"), (None,)])
def test_a_sequence_of_temperatures_holds_numbers(betas):
    with pytest.raises(TypeError, match=r"betas? must be a"):
        Annealed(betas=betas)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, -math.inf, math.inf])
def test_a_temperature_is_positive_and_finite(value):
    for name in ("beta", "target_beta"):
        with pytest.raises(
            ValueError, match=rf"{name} must be a positive, finite number, got .*use Argmax\(\)"
        ):
            Tempered(**{name: value})
    with pytest.raises(ValueError, match="start must be a positive, finite number"):
        Annealed(start=value)


def test_every_kind_of_number_will_do():
    for two in (2, np.float32(2), np.int64(2), Fraction(2)):
        assert Tempered(two) == Tempered(2.0)
        assert Annealed(betas=(1, two)) == Annealed(betas=(1.0, 2.0))
        assert Annealed(start=two, stop=math.inf).start == 2


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_a_number_of_components_is_whole(value):
    with pytest.raises(ValueError, match="n_active must be a whole number of at least 1"):
        Truncated(value)
