"""SEEING x through y = H x + e: operators, exact posteriors, missing entries."""

from mixcoder.sensing.operators import (
    GaussianRandom,
    Matrix,
    Operator,
    Physics,
    Rows,
    SciPyOperator,
    as_operator,
)

__all__ = ["GaussianRandom", "Matrix", "Operator", "Physics", "Rows", "SciPyOperator", "as_operator"]
