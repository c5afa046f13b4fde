"""Rows as the data frame that ``set_output`` asks for, with the columns that went in."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from torch import Tensor

from mixcoder.estimators._validation import like_input


def rows_out(estimator: Any, rows: Tensor, X: Any) -> Any:
    """Return rows like X as they go out of an estimator: an array, or the data frame that ``set_output`` asks for.

    Its columns are those that the estimator was fitted to, else ``x0``, ``x1``, ..., as of scikit-learn's imputers; the
    index is that of X.
    """
    container = _get_output_config("transform", estimator)["dense"]
    if container == "default":
        return like_input(rows, X)
    known = getattr(estimator, "feature_names_in_", None)
    names = [f"x{i}" for i in range(rows.shape[1])] if known is None else known
    adapter = ADAPTERS_MANAGER.adapters[container]
    return adapter.create_container(rows.numpy(force=True), X, columns=np.asarray(names, dtype=object))


__all__ = ["rows_out"]
