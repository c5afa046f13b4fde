"""SEEING x through y = H x + e: operators, exact posteriors, missing entries."""

from mixcoder.sensing.adaptation import adapted_prior
from mixcoder.sensing.design import (
    designed_operator,
    gaussian_error,
    gaussian_information,
    total_covariance,
)
from mixcoder.sensing.epll import EPLL
from mixcoder.sensing.grouped import GroupedPosterior
from mixcoder.sensing.images import Blur, Composition, Downsampling, inpainting
from mixcoder.sensing.information import (
    Information,
    InformativeOperator,
    informative_operator,
    mixture_information,
)
from mixcoder.sensing.latent import LatentRecovery, decoder_variance, recover_latent
from mixcoder.sensing.learning import Learned, learn_from_measurements
from mixcoder.sensing.masks import RowMasks
from mixcoder.sensing.missing import condition, impute, marginal, observed_log_prob, sample_missing
from mixcoder.sensing.operators import (
    GaussianRandom,
    Matrix,
    Operator,
    Physics,
    Rows,
    SciPyOperator,
    as_operator,
)
from mixcoder.sensing.posterior import Posterior, posterior
from mixcoder.sensing.prior import GaussianPrior
from mixcoder.sensing.projected import Projected, projected_gradient
from mixcoder.sensing.shrinkage import shrunk_prior

__all__ = [
    "EPLL",
    "Blur",
    "Composition",
    "Downsampling",
    "GaussianPrior",
    "GaussianRandom",
    "GroupedPosterior",
    "Information",
    "InformativeOperator",
    "LatentRecovery",
    "Learned",
    "Matrix",
    "Operator",
    "Physics",
    "Posterior",
    "Projected",
    "RowMasks",
    "Rows",
    "SciPyOperator",
    "adapted_prior",
    "as_operator",
    "condition",
    "decoder_variance",
    "designed_operator",
    "gaussian_error",
    "gaussian_information",
    "impute",
    "informative_operator",
    "inpainting",
    "learn_from_measurements",
    "marginal",
    "mixture_information",
    "observed_log_prob",
    "posterior",
    "projected_gradient",
    "recover_latent",
    "sample_missing",
    "shrunk_prior",
    "total_covariance",
]
