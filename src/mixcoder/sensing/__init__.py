"""SEEING x through y = H x + e: operators, exact posteriors, missing entries."""

from mixcoder.sensing.design import (
    designed_operator,
    gaussian_error,
    gaussian_information,
    total_covariance,
)
from mixcoder.sensing.grouped import GroupedPosterior
from mixcoder.sensing.images import Blur, Composition, Downsampling, inpainting
from mixcoder.sensing.masks import RowMasks
from mixcoder.sensing.missing import condition, impute, marginal, observed_log_prob
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
from mixcoder.sensing.shrinkage import shrunk_prior

__all__ = [
    "Blur",
    "Composition",
    "Downsampling",
    "GaussianPrior",
    "GaussianRandom",
    "GroupedPosterior",
    "Matrix",
    "Operator",
    "Physics",
    "Posterior",
    "RowMasks",
    "Rows",
    "SciPyOperator",
    "as_operator",
    "condition",
    "designed_operator",
    "gaussian_error",
    "gaussian_information",
    "impute",
    "inpainting",
    "marginal",
    "observed_log_prob",
    "posterior",
    "shrunk_prior",
    "total_covariance",
]
