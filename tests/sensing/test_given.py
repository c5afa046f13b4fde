"""What callers hand over: estimators for models, arrays for tensors, seeds for generators, and clear words else."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from mixcoder import GaussianMixture, KMeans, Mixture, load_patch_prior
from mixcoder import sensing as S
from mixcoder.errors import DataError

from .conftest import D, make_case

CASE = make_case("full")
H = np.random.default_rng(0).standard_normal((2, D))
X = CASE.means[np.arange(30) % 3] + np.random.default_rng(1).standard_normal((30, D))
Y = torch.from_numpy(X @ H.T)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: S.posterior(m, Y, H, 0.1).mean,
        lambda m: S.GaussianPrior.of(m).means,
        lambda m: S.designed_operator(m, 2).values,
        lambda m: S.mixture_information(m, H, 0.1, n_draws=50, generator=generator()).gradient,
        lambda m: S.informative_operator(m, 1, 0.1, n_draws=50, max_iter=2, generator=3).operator.values,
        lambda m: S.shrunk_prior(m, torch.from_numpy(X)).spreads,
        lambda m: S.adapted_prior(m, torch.from_numpy(X), 0.1).spreads,
        lambda m: S.marginal(m, [0, 2]).prototypes(),
        lambda m: S.condition(m, [0], torch.tensor([30.0])).prototypes(),
        lambda m: S.impute(m, torch.tensor([[30.0, *[torch.nan] * (D - 1)]])),
        lambda m: S.sample_missing(m, torch.tensor([[30.0, *[torch.nan] * (D - 1)]]), generator()),
        lambda m: S.observed_log_prob(m, torch.from_numpy(X)),
        lambda m: S.learn_from_measurements(
            [(torch.from_numpy(X), np.eye(D))], 3, 0.1, start=m, max_iter=1
        ).bounds[0],
    ],
)
def test_a_fitted_estimator_stands_for_its_model(ask):
    found, expected = ask(CASE.estimator), ask(CASE.model)
    close(torch.as_tensor(found), torch.as_tensor(expected))


def test_estimators_of_patches_and_codebooks():
    patches = load_patch_prior()
    ours, theirs = S.EPLL.of(patches), S.EPLL.of(patches.model_)
    assert (ours.patch_size, ours.removes_mean) == (theirs.patch_size, theirs.removes_mean)
    close(S.EPLL(patches, ours.patch_size).prior.means, theirs.prior.means)
    means = KMeans(3, random_state=0).fit(X)
    close(S.shrunk_prior(means, X).spreads, S.shrunk_prior(means.model_, torch.from_numpy(X)).spreads)


def test_what_is_no_model_is_named():
    with pytest.raises(TypeError, match="got GaussianMixture; fit it first"):
        S.posterior(GaussianMixture(2), Y, H, 0.1)
    with pytest.raises(TypeError, match=r"MixtureAutoencoder.*got ndarray"):
        S.designed_operator(X, 2)
    with pytest.raises(TypeError, match="got GaussianPrior"):
        S.shrunk_prior(S.GaussianPrior.of(CASE.model), X)
    bits = Mixture("bernoulli", 2, random_state=0).fit(np.random.default_rng(2).integers(0, 2, (30, D)))
    with pytest.raises(TypeError, match="PPCAMixture or FactorAnalyzerMixture"):
        S.posterior(bits, Y, H, 0.1)


def test_arrays_stand_for_tensors():
    mask, image = X > 30, np.ones((4, 5), bool)
    mask.setflags(write=False)
    close(S.RowMasks(mask).observed, torch.tensor(mask))
    holes = np.where(mask, X, np.nan)
    close(S.RowMasks.of_present(holes).observed, torch.tensor(mask))
    image[1, 2] = False
    close(S.inpainting(image).columns, S.inpainting(torch.tensor(image)).columns)
    close(S.Rows.observed(mask[0]).columns, S.Rows.observed(torch.tensor(mask[0])).columns)
    close(S.adapted_prior(CASE.model, X, 0.2).means, S.adapted_prior(CASE.model, torch.tensor(X), 0.2).means)
    close(S.impute(CASE.model, holes), S.impute(CASE.model, torch.tensor(holes)))
    kernel = np.random.default_rng(0).random((5, 3))[::2, ::-1]
    blur = S.Blur(kernel, (6, 6))
    close(blur.kernel, torch.tensor(kernel.copy()))
    pixels = np.random.default_rng(1).random((2, 36))
    close(blur.apply(pixels), blur.apply(torch.tensor(pixels)))
    for matrix in (pd.DataFrame(H), scipy.sparse.csr_array(H), scipy.sparse.coo_matrix(H), H.tolist()):
        torch.testing.assert_close(S.as_operator(matrix).matrix(), torch.tensor(H))
        torch.testing.assert_close(
            S.posterior(CASE.model, Y, matrix, 0.1).mean, S.posterior(CASE.model, Y, H, 0.1).mean
        )


@pytest.mark.parametrize("operator", [H, S.RowMasks(np.tile(X[:1] > 30, (30, 1)))], ids=["one", "grouped"])
def test_generators_are_generators_seeds_or_torchs_own(operator):
    y = torch.from_numpy(X) if isinstance(operator, S.RowMasks) else Y
    seen = S.posterior(CASE.model, y, operator, 0.1)
    close(seen.sample(3, 5)[0], seen.sample(3, torch.Generator().manual_seed(5))[0])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first, second = seen.sample(3)[0], seen.sample(3)[0]
        torch.manual_seed(7)
        close(seen.sample(3)[0], first)
    assert not torch.equal(first, second)
    for wrong in (1.5, True, np.random.default_rng(0)):
        with pytest.raises(TypeError, match=r"torch\.Generator, a seed"):
            seen.sample(3, wrong)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: S.posterior(CASE.model, Y, H, np.full(4, 0.1)), r"one number, got ndarray of shape \(4,\)"),
        (lambda: S.posterior(CASE.model, Y, H, "a"), "noise_variance must be a number, got 'a' of type str"),
        (lambda: S.posterior(CASE.model, Y, H, math.nan), "non-negative and finite, got nan"),
        (
            lambda: S.posterior(CASE.model, X, S.RowMasks(X > 30), 0.1),
            r"y must be a torch\.Tensor, got ndarray",
        ),
        (lambda: S.learn_from_measurements([(Y, S.RowMasks(X > 30))], 1), "RowMasks is an operator a row"),
        (
            lambda: S.Downsampling(2, (4, 4)).apply(torch.ones(3, 7)),
            r"\(n_rows, 16\) were expected, got \(3, 7\)",
        ),
        (
            lambda: S.Downsampling(2, (4, 4)).adjoint(torch.ones(3, 7)),
            r"\(n_rows, 4\) were expected, got \(3, 7\)",
        ),
        (lambda: S.Rows.of([0], 4).apply(torch.ones(3, 7)), r"\(n_rows, 4\) were expected, got \(3, 7\)"),
        (lambda: S.Matrix(torch.ones(2, 4)).apply(torch.ones(4)), r"\(n_rows, 4\) were expected, got \(4,\)"),
        (lambda: S.Downsampling(2.0, (4, 4)), "factor must be an integer, got 2.0"),
        (lambda: S.Rows.observed(np.array([0, 2])), "bool of shape"),
        (lambda: S.Blur(np.zeros((3, 3)), (4, 4)), "other than zero"),
        (lambda: S.RowMasks(np.array(["a"])), "array of numbers, got ndarray of dtype <U1"),
        (lambda: S.as_operator(scipy.sparse.csr_array(H * np.nan)), "finite"),
    ],
)
def test_what_was_expected_and_given_is_said(ask, message):
    with pytest.raises((TypeError, ValueError, DataError), match=message):
        ask()
