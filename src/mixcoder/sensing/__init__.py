"""SEEING x through y = H x + e: operators, exact posteriors, missing entries."""

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

__all__ = [
    "GaussianPrior",
    "GaussianRandom",
    "Matrix",
    "Operator",
    "Physics",
    "Posterior",
    "Rows",
    "SciPyOperator",
    "as_operator",
    "condition",
    "impute",
    "marginal",
    "observed_log_prob",
    "posterior",
    "sample_missing",
]
