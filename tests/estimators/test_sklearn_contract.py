"""scikit-learn's own checks of an estimator, all of them, for every kind of setting: none is expected to fail."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from mixcoder import (
    BayesianGaussianMixture,
    FactorAnalyzerMixture,
    GaussianMixture,
    KMeans,
    Mixture,
    PPCAMixture,
    SubspaceMixture,
)
from mixcoder.components import PPCA, FactorAnalyzer, GaussianLowRankTied, GaussianTiedSpherical, StudentT
from mixcoder.encoders import Argmax, Tempered

# The checks fit a dozen rows of thirty columns: that such fits are warned of is tested in test_bad_input.py.
pytestmark = [
    pytest.mark.filterwarnings("ignore::mixcoder.errors.OverfitWarning"),
    pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning"),
    pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateFeatureWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

COVARIANCES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")


K_MEANS = [
    KMeans(n_clusters=3),
    KMeans(n_clusters=2, algorithm="elkan", max_iter=5),
    KMeans(n_clusters=3, init="random"),
    KMeans(n_clusters=3, n_init=3, tol=0.0),
]
GAUSSIAN_MIXTURES = [
    *(GaussianMixture(2, covariance_type=covariance) for covariance in COVARIANCES),
    *(GaussianMixture(2, temperature=temperature) for temperature in (0.0, 0.5, 2.0)),
    *(GaussianMixture(2, init_params=how) for how in ("kmeans", "k-means++", "random", "random_from_data")),
    GaussianMixture(),
    GaussianMixture(3, covariance_type="diag", n_init=3),
    GaussianMixture(2, reg_covar=1e-6, acceleration="none"),
    GaussianMixture(2, covariance_type="spherical", warm_start=True, max_iter=2),
]
BAYESIAN = [
    BayesianGaussianMixture(),
    *(BayesianGaussianMixture(2, covariance_type=covariance) for covariance in COVARIANCES[:4]),
    *(BayesianGaussianMixture(2, posterior_temperature=temperature) for temperature in (0.0, 0.5)),
    BayesianGaussianMixture(3, weight_concentration_prior_type="dirichlet_distribution", temperature=0.0),
    BayesianGaussianMixture(2, covariance_type="diag", precision_prior_type="gamma", init_params="kmeans"),
    BayesianGaussianMixture(2, init_params="random", reg_covar=1e-6, max_iter=3),
]
MIXTURES = [
    Mixture(n_components=2),
    Mixture("gaussian_diagonal", 2, temperature=0.0),
    Mixture("gaussian_tied", 2, encoder=Tempered(0.3, target_beta=1.0)),
    Mixture(GaussianTiedSpherical(variance=1.0), 3, encoder=Argmax()),
    # A floor of 1e-9 of the variance on twelve rows of thirty columns leaves seven digits; the check asks for more.
    Mixture(StudentT(min_variance=1e-4), 2),
    Mixture(StudentT(5.0, min_variance=1e-4), 2, temperature=0.0),
    Mixture(PPCA(1), 2),
    Mixture(FactorAnalyzer(1), 2),
    Mixture(GaussianLowRankTied(1, min_variance=1e-4), 2),
    PPCAMixture(2, 1),
    PPCAMixture(2, 1, temperature=0.0, min_variance=0.1),
    FactorAnalyzerMixture(2, 1),
    PPCAMixture(2, 1, noise="shared"),
    PPCAMixture(2, "auto", shrinkage=0.1),
    FactorAnalyzerMixture(2, 1, noise="shared", shrinkage=0.1),
    SubspaceMixture(2, 1),
    SubspaceMixture(2, "auto", n_init=2),
]


@parametrize_with_checks([*K_MEANS, *GAUSSIAN_MIXTURES, *BAYESIAN, *MIXTURES])
def test_scikit_learn_finds_nothing_to_object_to(estimator, check):
    check(estimator)
