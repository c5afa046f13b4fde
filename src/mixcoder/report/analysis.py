"""What there is to say about rows: computed here, worded and drawn elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixcoder.errors import DataError, FitError
from mixcoder.estimators import GaussianMixture, select
from mixcoder.selection import Selection

# Rows on which models are compared; the chosen one is fitted to all.
SELECTION_ROWS = 10_000

# Beyond so many columns full covariances take long and overfit, and a start that was searched for is enough.
_WIDE = 30

# Numbers of components to compare unless told; while the last is the best, the further ones too, of its covariance.
_SIZES, _FURTHER = 9, (12, 16, 20)

_TOLD = 5


@dataclass(frozen=True)
class Feature:
    """One column of one cluster.

    Parameters
    ----------
    name : str
    effect : float
        Difference of the means within and outside of the cluster, in units of the standard deviation within the two.
    inside, outside : float
        The two means.
    """

    name: str
    effect: float
    inside: float
    outside: float


@dataclass(frozen=True)
class Cluster:
    """One component and the rows that it explains best.

    Parameters
    ----------
    number : int
    n_rows : int
    share : float
    certainty : float
        Mean responsibility of the component for these rows.
    features : tuple of Feature
        The columns that set it apart most, the first most.
    effects : ndarray, shape (d,)
        Of every column fitted.
    """

    number: int
    n_rows: int
    share: float
    certainty: float
    features: tuple[Feature, ...]
    effects: np.ndarray


@dataclass(frozen=True)
class Outlier:
    """A row that the model finds improbable.

    Parameters
    ----------
    row : int
        From 0.
    log_density : float
        In nats.
    cluster : int
        The component that explains it best.
    name : str
        The column farthest from the mean of that cluster, in standard deviations of the cluster.
    value, deviation : float
        Of that column: what it is, and how far from the mean.
    """

    row: int
    log_density: float
    cluster: int
    name: str
    value: float
    deviation: float


@dataclass(frozen=True)
class Analysis:
    """A chosen model with what it says.

    Parameters
    ----------
    x : ndarray, shape (n, d)
        The rows fitted; NaN is a missing entry.
    filled : ndarray, shape (n, d)
        The same with missing entries as the model expects them.
    columns : tuple of str
        Of these rows.
    constant : tuple of str
        Columns that were left out, since they are the same in every row.
    kept : ndarray of bool
        Which columns of the table were fitted.
    model : GaussianMixture
    selection : Selection
    n_selection_rows : int
        On how many rows the models were compared.
    labels : ndarray, shape (n,)
    log_density : ndarray, shape (n,)
        In nats.
    clusters : tuple of Cluster
        The largest first.
    outliers : tuple of Outlier
        The least probable first.
    warnings : tuple of str
        What the last fit warned of.
    """

    x: np.ndarray
    filled: np.ndarray
    columns: tuple[str, ...]
    constant: tuple[str, ...]
    kept: np.ndarray
    model: Any
    selection: Selection
    n_selection_rows: int
    labels: np.ndarray
    log_density: np.ndarray
    clusters: tuple[Cluster, ...]
    outliers: tuple[Outlier, ...]
    warnings: tuple[str, ...]


def analyse(
    values: np.ndarray,
    columns: Sequence[str],
    *,
    covariances: Sequence[str] | None = None,
    most_components: int | None = None,
    components: int | None = None,
    n_outliers: int = 10,
    seed: int = 0,
) -> Analysis:
    """Choose a Gaussian mixture for rows by BIC and ask it what there is to know; NaN is a missing entry.

    Parameters
    ----------
    values : ndarray, shape (n, d)
    columns : sequence of str, length d
    covariances : sequence of str, optional
        Covariance types to compare; by default full, tied, diag and spherical ones, of more than 30 columns diag and
        tied_diag ones.
    most_components : int, optional
        One to so many are compared; by default nine, and 12, 16 and 20 of the best covariance while more are better.
    components : int, optional
        Compare this number only.
    n_outliers : int, default=10
    seed : int, default=0
    """
    kept = np.fmax.reduce(values) > np.fmin.reduce(values)  # of the entries that are there
    if not kept.any():
        raise DataError("Every column is constant: all rows are the same, there is nothing to describe.")
    x = np.ascontiguousarray(values[:, kept])
    names = tuple(str(name) for name, keep in zip(columns, kept, strict=True) if keep)
    constant = tuple(str(name) for name, keep in zip(columns, kept, strict=True) if not keep)
    rng = np.random.default_rng(seed)
    some = x if len(x) <= SELECTION_ROWS else x[np.sort(rng.choice(len(x), SELECTION_ROWS, replace=False))]
    narrow = ("full", "tied", "diag", "spherical")
    wide = ("diag", "tied_diag")
    sizes = range(1, min(most_components or _SIZES, len(some)) + 1) if components is None else [components]
    grid = {
        "covariance_type": covariances or (narrow if x.shape[1] <= _WIDE else wide),
        "n_components": sizes,
    }
    n_init = 3 if x.shape[1] <= _WIDE else 1
    fresh = GaussianMixture(random_state=seed, n_init=n_init)
    selection = select(fresh, some, grid)
    if most_components is None and components is None:
        selection = _further(selection, fresh, some)
    best = selection.best
    told: tuple[str, ...] = best.remarks
    model = best.model
    if some is not x:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = GaussianMixture(random_state=seed, n_init=n_init, **best.settings).fit(x)
        told = tuple(dict.fromkeys(str(w.message) for w in caught))
    code = np.asarray(model.predict_proba(x), dtype=np.float64)
    labels = code.argmax(1)
    log_density = np.asarray(model.score_samples(x), dtype=np.float64)
    return Analysis(
        x,
        np.asarray(model.impute(x)) if np.isnan(x).any() else x,
        names,
        constant,
        kept,
        model,
        selection,
        len(some),
        labels,
        log_density,
        _clusters(x, names, labels, code),
        _outliers(x, names, labels, log_density, n_outliers),
        told,
    )


def _further(selection: Selection, fresh: GaussianMixture, x: np.ndarray) -> Selection:
    """Compare more components of the best covariance for as long as the most that were tried are the best."""
    for k in _FURTHER:
        best = selection.best
        if best.n_components < max(c.n_components for c in selection.candidates) or k > len(x) // 10:
            break
        grid = {"covariance_type": [best.settings["covariance_type"]], "n_components": [k]}
        try:
            found = select(fresh, x, grid)
        except FitError:  # the last step before is then the answer
            break
        selection = Selection((*selection.candidates, *found.candidates), selection.criterion)
    return selection


def effect_sizes(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    r"""Return how far apart the means of rows within and outside of a group are, column by column, shape (d,).

    .. math:: \frac{m_1 - m_2}{s}, \quad s^2 = \frac{n_1 s_1^2 + n_2 s_2^2}{n_1 + n_2}

    over the entries that are there. Infinite where a column varies between the two alone; 0 where one of the two has
    no entries.

    References
    ----------
    Cohen (1988), "Statistical power analysis for the behavioral sciences", section 2.5.

    Examples
    --------
    >>> x = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> effect_sizes(x, np.array([False, False, True, True])).tolist()
    [4.0]
    """
    (n_one, one, var_one), (n_other, other, var_other) = _moments(x[inside]), _moments(x[~inside])
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.sqrt((n_one * var_one + n_other * var_other) / (n_one + n_other))
        apart = np.where((n_one > 0) & (n_other > 0), one - other, 0.0)
        return np.where(apart == 0, 0.0, apart / within)


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number, mean and variance of the entries of each column that are there; 0 where there are none."""
    seen = ~np.isnan(x)
    n = seen.sum(0)
    mean = np.where(seen, x, 0.0).sum(0, dtype=np.float64) / np.maximum(n, 1)
    apart = np.where(seen, x - mean, 0.0)
    return n, mean, np.einsum("nd,nd->d", apart, apart) / np.maximum(n, 1)


def _clusters(
    x: np.ndarray, names: tuple[str, ...], labels: np.ndarray, code: np.ndarray
) -> tuple[Cluster, ...]:
    found: list[Cluster] = []
    for k in range(code.shape[1]):
        own = labels == k
        n_rows = int(own.sum())
        if not n_rows:
            continue
        effects = effect_sizes(x, own)
        inside, outside = _moments(x[own])[1], _moments(x[~own] if n_rows < len(x) else x)[1]
        order = np.argsort(-np.abs(effects), kind="stable")[:_TOLD]
        features = tuple(
            Feature(names[j], float(effects[j]), float(inside[j]), float(outside[j])) for j in order
        )
        found.append(Cluster(k, n_rows, n_rows / len(x), float(code[own, k].mean()), features, effects))
    return tuple(sorted(found, key=lambda cluster: -cluster.n_rows))


def _outliers(
    x: np.ndarray, names: tuple[str, ...], labels: np.ndarray, log_density: np.ndarray, n: int
) -> tuple[Outlier, ...]:
    found: list[Outlier] = []
    for row in np.argsort(log_density, kind="stable")[:n].tolist():
        _, mean, variance = _moments(x[labels == labels[row]])
        stds, apart = np.sqrt(variance), np.nan_to_num(x[row] - mean)
        deviations = np.where(stds > 0, apart / np.where(stds > 0, stds, 1.0), 0.0)
        j = int(np.abs(deviations).argmax())
        found.append(
            Outlier(
                row,
                float(log_density[row]),
                int(labels[row]),
                names[j],
                float(x[row, j]),
                float(deviations[j]),
            )
        )
    return tuple(found)


__all__ = ["SELECTION_ROWS", "Analysis", "Cluster", "Feature", "Outlier", "analyse", "effect_sizes"]
