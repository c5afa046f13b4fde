"""scikit-learn faces of the mixtures."""

from mixcoder.estimators._persistence import load
from mixcoder.estimators.bayesian_gaussian_mixture import BayesianGaussianMixture
from mixcoder.estimators.embedded_mixture import EmbeddedMixture
from mixcoder.estimators.gaussian_mixture import GaussianMixture
from mixcoder.estimators.k_means import KMeans
from mixcoder.estimators.linear_mixtures import FactorAnalyzerMixture, PPCAMixture
from mixcoder.estimators.mixture import Mixture
from mixcoder.estimators.model_average import ModelAverage
from mixcoder.estimators.parametric_embedding import ParametricEmbedding
from mixcoder.estimators.patches import fit_patches, load_patch_prior
from mixcoder.estimators.selection import select
from mixcoder.estimators.stability import stability
from mixcoder.estimators.subspace_mixture import SubspaceMixture

__all__ = [
    "BayesianGaussianMixture",
    "EmbeddedMixture",
    "FactorAnalyzerMixture",
    "GaussianMixture",
    "KMeans",
    "Mixture",
    "ModelAverage",
    "PPCAMixture",
    "ParametricEmbedding",
    "SubspaceMixture",
    "fit_patches",
    "load",
    "load_patch_prior",
    "select",
    "stability",
]
