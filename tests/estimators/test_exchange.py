"""To and from scikit-learn, torch.distributions and FAISS: the same density, the same labels, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as TheirKMeans
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as Theirs
from torch.distributions import (
    Categorical,
    Gamma,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import mixcoder
from mixcoder import GaussianMixture, KMeans

FRAME = load_iris(as_frame=True).data
X = FRAME.to_numpy()
KINDS = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_scikit_learns_mixture_has_the_same_density_and_codes(kind):
    ours = GaussianMixture(3, covariance_type=kind, random_state=0).fit(FRAME)
    theirs = ours.to_sklearn()
    np.testing.assert_allclose(theirs.score_samples(FRAME), ours.score_samples(FRAME), rtol=0, atol=1e-12)
    np.testing.assert_allclose(theirs.predict_proba(FRAME), ours.predict_proba(FRAME), atol=1e-12)
    assert list(theirs.feature_names_in_) == list(FRAME.columns)
    if not kind.startswith("tied_"):
        assert theirs.bic(FRAME) == pytest.approx(ours.bic(FRAME), rel=1e-12)
    back = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_allclose(back.score_samples(FRAME), ours.score_samples(FRAME), rtol=0, atol=1e-12)
    assert list(back.feature_names_in_) == list(FRAME.columns)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_a_mixture_fitted_by_scikit_learn_comes_over_and_goes_on(kind, tmp_path):
    theirs = Theirs(3, covariance_type=kind, random_state=0).fit(X)
    ours = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-12)
    assert (ours.n_iter_, ours.lower_bound_) == (theirs.n_iter_, theirs.lower_bound_)
    ours.save(tmp_path / "m.mixcoder")
    np.testing.assert_array_equal(mixcoder.load(tmp_path / "m.mixcoder").predict(X), ours.predict(X))
    assert ours.set_params(warm_start=True).fit(X).score(X) >= theirs.score(X) - 1e-9


@every_kind
def test_the_distribution_of_torch_has_the_same_density_moments_and_draws(kind):
    ours = GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
    theirs = ours.to_torch()
    density = theirs.log_prob(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(density, ours.score_samples(X), rtol=0, atol=1e-12)
    np.testing.assert_allclose(theirs.mean.numpy(), ours.weights_ @ ours.means_, rtol=1e-12)
    assert theirs.sample((5,)).shape == (5, 4)
    back = GaussianMixture.from_torch(theirs)
    assert back.covariance_type == ("full" if kind in ("full", "tied") else "diag")
    np.testing.assert_allclose(back.score_samples(X), ours.score_samples(X), rtol=0, atol=1e-12)


def test_low_rank_and_float32_distributions_come_over():
    generator = torch.Generator().manual_seed(0)
    parts = LowRankMultivariateNormal(
        torch.randn(2, 3, generator=generator), torch.randn(2, 3, 1, generator=generator), torch.ones(2, 3)
    )
    theirs = MixtureSameFamily(Categorical(logits=torch.tensor([0.3, -1.0])), parts)
    ours = GaussianMixture.from_torch(theirs)
    rows = torch.randn(20, 3, generator=generator)
    torch.testing.assert_close(
        ours.score_samples(rows.double()).float(), theirs.log_prob(rows), rtol=1e-4, atol=1e-4
    )
    assert isinstance(ours.score_samples(rows), torch.Tensor)


def test_a_tensor_fit_and_a_narrow_fit_are_exported_in_float64():
    ours = GaussianMixture(2, random_state=0).fit(torch.from_numpy(X.astype(np.float32)))
    assert ours.to_sklearn().means_.dtype == np.float64
    assert ours.to_torch().mean.dtype == torch.float64
    assert isinstance(ours.to_sklearn().predict(X), np.ndarray)


def test_what_is_no_gaussian_mixture_is_refused():
    with pytest.raises(TypeError, match="BayesianGaussianMixture"):
        GaussianMixture.from_sklearn(BayesianGaussianMixture(2, random_state=0).fit(X))
    with pytest.raises(TypeError, match="got KMeans"):
        GaussianMixture.from_sklearn(TheirKMeans(2))
    with pytest.raises(ValueError, match="not fitted"):
        GaussianMixture.from_sklearn(Theirs(2))
    with pytest.raises(ValueError, match="not fitted"):
        GaussianMixture(2).to_sklearn()
    with pytest.raises(TypeError, match="got MultivariateNormal"):
        GaussianMixture.from_torch(MultivariateNormal(torch.zeros(2), torch.eye(2)))
    weights = Categorical(probs=torch.ones(2))
    with pytest.raises(TypeError, match="got components"):
        GaussianMixture.from_torch(
            MixtureSameFamily(weights, Independent(Gamma(torch.ones(2, 3), torch.ones(2, 3)), 1))
        )
    many = MixtureSameFamily(
        Categorical(probs=torch.ones(4, 2)), Independent(Normal(torch.zeros(4, 2, 3), 1.0), 1)
    )
    with pytest.raises(ValueError, match=r"shape \(4, 2\)"):
        GaussianMixture.from_torch(many)


# Codebooks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_codebook_goes_out_and_comes_back(dtype, tmp_path):
    rows = X.astype(dtype)
    ours = KMeans(5, random_state=0).fit(rows)
    book = ours.codebook()
    assert (book.dtype, book.flags.c_contiguous, book.shape) == (np.float32, True, (5, 4))
    np.testing.assert_allclose(book, ours.cluster_centers_, rtol=1e-6)
    back = KMeans.from_codebook(ours.cluster_centers_, np.bincount(ours.labels_))
    assert back.cluster_centers_.dtype == dtype
    np.testing.assert_allclose(back.cluster_centers_, ours.cluster_centers_, rtol=1e-6)
    np.testing.assert_array_equal(back.predict(rows), ours.labels_)
    assert back.rate(rows) == pytest.approx(ours.rate(rows), rel=1e-6)
    back.save(tmp_path / "k.mixcoder")
    np.testing.assert_array_equal(mixcoder.load(tmp_path / "k.mixcoder").predict(rows), ours.labels_)
    assert back.partial_fit(rows).n_iter_ >= 1


def test_codebooks_of_equal_entries_and_wrong_shapes():
    assert KMeans.from_codebook([[1.0, 2.0], [1.0, 2.0], [5.0, 5.0]]).predict(
        [[1.0, 2.1], [6.0, 6.0]]
    ).tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"\(n_clusters, n_features\), got \(3,\)"):
        KMeans.from_codebook([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="one weight a row"):
        KMeans.from_codebook(np.eye(2), weights=[1.0, 2.0, 3.0])


def test_faiss_finds_the_same_entries_and_its_own_codebooks_come_over():
    faiss = pytest.importorskip("faiss")
    rows = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    ours = KMeans(6, random_state=0).fit(rows)
    index = faiss.IndexFlatL2(8)
    index.add(ours.codebook())
    np.testing.assert_array_equal(index.search(rows, 1)[1][:, 0], ours.predict(rows))
    theirs = faiss.Kmeans(8, 6, niter=5, seed=1)
    with pytest.raises(ValueError, match="call its train first"):
        KMeans.from_codebook(theirs)
    theirs.train(rows)
    labels = theirs.index.search(rows, 1)[1][:, 0]
    for source in (theirs, index, theirs.index, theirs.centroids):
        back = KMeans.from_codebook(source)
        if source is not index:
            np.testing.assert_array_equal(back.codebook(), theirs.centroids)
            np.testing.assert_array_equal(back.predict(rows), labels)
