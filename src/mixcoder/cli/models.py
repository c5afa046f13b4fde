"""Between files and estimators: which estimator the options mean, and which columns a fitted one wants."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import click
import numpy as np

from mixcoder.cli.tables import Table, TableFile, require_finite
from mixcoder.errors import DataError, ModelFileError

__all__ = [
    "about",
    "allows_missing",
    "blocks",
    "build",
    "column_names",
    "hard_bits",
    "has_density",
    "load",
    "n_components",
    "names_of",
    "rows_for",
    "without_names",
]


def build(model: str, components: int, settings: Mapping[str, Any]) -> Any:
    """The unfitted estimator that ``fit --model`` means; settings that are None are the estimator's own.

    Raises
    ------
    click.UsageError
        If the estimator has no such setting.
    """
    import mixcoder

    match model:
        case "gaussian":
            estimator: Any = mixcoder.GaussianMixture(n_components=components)
        case "kmeans":
            estimator = mixcoder.KMeans(n_clusters=components)
        case family:
            from mixcoder.estimators.mixture import families, nameable_families

            if family not in nameable_families():
                known = ", ".join(["gaussian", "kmeans", *sorted(nameable_families())])
                hint = " Planes are fitted in Python; a saved model of them serves every other command."
                raise click.UsageError(
                    f"--model {family} is not one of {known}.{hint if family in families() else ''}"
                )
            estimator = mixcoder.Mixture(family, n_components=components)
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in estimator.get_params(deep=False):
            raise click.UsageError(
                f"--{OPTIONS.get(name, name.replace('_', '-'))} does not apply to --model {model}."
            )
    return estimator.set_params(**given)


# Where the option is not called as the parameter is.
OPTIONS = {"covariance_type": "covariance", "random_state": "seed"}


def load(path: str) -> Any:
    """The fitted estimator in a model file.

    Raises
    ------
    ModelFileError
        If the file is missing or unreadable, and for all the reasons of `mixcoder.load`.
    """
    import mixcoder

    try:
        return mixcoder.load(path)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ModelFileError(f"{click.format_filename(path)}: {reason}.") from error


def allows_missing(estimator: Any) -> bool:
    """Whether the estimator says that NaN means missing to it."""
    from sklearn.utils import get_tags

    return bool(get_tags(estimator).input_tags.allow_nan)


def has_density(model: Any) -> bool:
    """Whether the model gives rows a probability, so that they can be scored and sampled; k-means does not."""
    return hasattr(model, "score_samples") and hasattr(model, "sample")


def n_components(model: Any) -> int:
    """How many components, or clusters, a fitted model has."""
    return len(model.weights_ if hasattr(model, "weights_") else model.cluster_centers_)


def hard_bits(model: Any, rows: np.ndarray, labels: np.ndarray) -> float:
    """What the labels of some rows cost together, in bits: -log2 of their components' weights."""
    if not hasattr(model, "weights_"):
        return float(model.rate(rows)) * len(rows)
    with np.errstate(divide="ignore"):
        lengths = -np.log2(np.asarray(model.weights_, dtype=float))
    return float(lengths[labels].sum())


@contextmanager
def about(path: str) -> Iterator[None]:
    """Within the block, name the file in what the library says of the rows; it has seen an array only."""
    try:
        yield
    except DataError as error:
        if path in str(error):
            raise
        raise DataError(f"{path}: {error}") from error


def column_names(model: Any) -> tuple[str, ...]:
    """The columns that a model was fitted to; x0, x1, ... if they had no names."""
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return tuple(f"x{j}" for j in range(model.n_features_in_))
    return tuple(str(name) for name in names)


def rows_for(model: Any, source: TableFile, columns: Sequence[str] | None) -> Table:
    """The rows as the model wants them: its own columns by name if both have names, else all columns in their order.

    Raises
    ------
    DataError
        If the columns are not the model's, or a cell is missing or infinite.
    """
    names = getattr(model, "feature_names_in_", None)
    if columns is None and source.named and names is not None:
        columns = [str(name) for name in names]
        absent = [name for name in columns if name not in source.columns]
        if absent:
            raise DataError(
                f"{source.path} has no column {absent[0]!r}, to which the model was fitted (with {_first(columns)}): "
                "rename one of its own, or choose them with --columns."
            )
    elif columns is None and len(source.columns) != model.n_features_in_:
        # Said before reading: a text column too many should be told as such, not by its first cell.
        raise _wrong_width(source.path, len(source.columns), model)
    table = source.read(columns)
    if table.values.shape[1] != model.n_features_in_:
        raise _wrong_width(table.path, table.values.shape[1], model)
    require_finite(table, allow_missing=allows_missing(model))
    return table


def names_of(model: Any) -> list[str] | None:
    """The names of the columns that a model was fitted to, where they had any."""
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def without_names(model: Any) -> Any:
    """The same model, to be asked about arrays whose columns have been chosen."""
    other = copy(model)
    vars(other).pop("feature_names_in_", None)
    return other


def _wrong_width(path: str, width: int, model: Any) -> DataError:
    return DataError(
        f"{path} has {width} columns, but the model was fitted to {model.n_features_in_} "
        f"({_first(column_names(model))}): choose as many with --columns."
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive blocks of rows (n d) or labels (n,): small enough for a bar to move, large enough to cost nothing."""
    step = max(256, 4_000_000 // max(1, values[0].size))
    for start in range(0, len(values), step):
        yield values[start : start + step]
