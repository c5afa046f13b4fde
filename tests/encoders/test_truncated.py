"""Codes of a few components: the best of all such codes, and what they are at either end."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from mixcoder.encoders import Argmax, Tempered, Truncated
from mixcoder.objectives import free_energy


@pytest.fixture
def log_joint():
    return 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("beta", [0.05, 1.0, 4.0])
def test_no_other_choice_of_components_has_a_higher_free_energy(log_joint, m, beta):
    code, bound = Truncated(m, beta).encode_with_bound_(log_joint.clone())
    every = torch.stack(
        [torch.logsumexp(beta * log_joint[:, list(some)], 1) / beta for some in combinations(range(6), m)]
    )
    torch.testing.assert_close(bound, every.amax(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(free_energy(log_joint, code, beta), bound, rtol=1e-12, atol=1e-12)
    assert bool(((code > 0).sum(1) == m).all())


def test_all_components_are_the_tempered_posterior_and_one_the_argmax(log_joint):
    for m in (6, 9):
        torch.testing.assert_close(Truncated(m, 0.3).encode(log_joint), Tempered(0.3).encode(log_joint))
    hard = Argmax().encode(log_joint).dense(torch.float64)
    assert torch.equal(Truncated(1, 0.3).encode(log_joint), hard)


def test_a_code_of_more_components_is_not_admitted(log_joint):
    two = Truncated(2, 0.5).encode(log_joint)
    assert bool(Truncated(2, 0.5).bound(log_joint, two).isfinite().all())
    assert bool((Truncated(1, 0.5).bound(log_joint, two) == -torch.inf).all())
