"""Fitting many mixtures to the same rows, and choosing one."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, ParameterGrid
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from mixcoder._user_warnings import warn_user
from mixcoder.errors import DataError, DegenerateComponentWarning, FitError
from mixcoder.estimators._validation import as_tensor, weights_of
from mixcoder.estimators.mixture import DensityEstimator
from mixcoder.fitting.fit import describe, floor_reference
from mixcoder.fitting.scan import scan, scan_range
from mixcoder.selection import CRITERIA, Candidate, Selection
from mixcoder.sources import Source

# Numbers of components without a better criterion after which "auto" stops to look further, and where it stops anyway.
PATIENCE = 3
MOST = 100

# Rows beside which a mixture of "auto" components must have this many a component.
_ROWS_PER_COMPONENT = 2

# Components that a warm start tries to split.
_SPLITS = 4

_CUT = "the fit was interrupted"


def select(
    estimator: Any,
    X: Any,
    grid: Mapping[str, Iterable[Any]] | list[Mapping[str, Iterable[Any]]] | None = None,
    *,
    criterion: str = "bic",
    cv: int = 5,
    sample_weight: Any = None,
    n_jobs: int | None = None,
) -> Selection:
    r"""Fit an estimator with every combination of settings, and say which is best.

    Parameters
    ----------
    estimator : mixture of mixcoder
        Fitted or not; it is left as it is. With ``n_components="auto"`` each combination of the other settings finds
        its own number of components.
    X : array-like or Source, shape (n_samples, n_features)
    grid : dict of str to list, or a list of such, optional
        Values of parameters to combine, as for :class:`sklearn.model_selection.GridSearchCV`; by default one to nine
        components.
    criterion : {"bic", "icl", "aic", "held_out"}, default="bic"
        "held_out" is the mean log-density of rows left out, over ``cv`` folds. BIC, ICL and AIC are always told.
    cv : int, default=5
        Number of folds of "held_out", which are drawn by the estimator's ``random_state``.
    sample_weight : array-like, shape (n_samples,), optional
        Criteria then count the weighted mean log-density once for each row with a weight.
    n_jobs : int, optional
        Fits at a time, in processes, as in scikit-learn. The result does not depend on it.

    Returns
    -------
    Selection
        With ``best``, ``best_model``, ``ranked`` and ``as_records()``. A combination whose fit failed or ended with
        collapsed or unused components is told with its reason, and never chosen. An interrupt (Ctrl-C) ends the
        search; where the estimator has ``on_interrupt="keep"`` and something was complete, that is returned, with
        ``interrupted`` set and a warning.

    Raises
    ------
    FitError
        If no combination can be chosen.

    Notes
    -----
    More components can always explain the rows at least as well. Where a fit ends below one with fewer (and all other
    settings equal), it is begun once more from that one with a component split, and the better of the two is kept.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import GaussianMixture, select
    >>> grid = {"n_components": [1, 2, 3], "covariance_type": ["full", "tied"]}
    >>> chosen = select(GaussianMixture(random_state=0), load_iris().data, grid)
    >>> dict(chosen.best.settings), round(chosen.best.bic, 1)
    ({'covariance_type': 'full', 'n_components': 2}, 574.0)
    """
    if not isinstance(estimator, DensityEstimator):
        raise TypeError(
            f"select compares mixtures by their likelihood, but {type(estimator).__name__} has none; give it a "
            "GaussianMixture, Mixture, PPCAMixture or FactorAnalyzerMixture."
        )
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {CRITERIA}, got {criterion!r}.")
    if criterion == "held_out" and isinstance(X, Source):
        raise DataError(
            "Held-out likelihood shuffles rows in memory, but these are in files: use criterion='bic'."
        )
    if grid is None:
        grid = {"n_components": range(1, 10)}
    settings: list[dict[str, Any]] = [dict(cell) for cell in ParameterGrid(_lists(grid))]
    folds = int(cv) if criterion == "held_out" else 0
    seed = _seed(estimator)
    keeps = getattr(estimator, "on_interrupt", "raise") == "keep"
    made: list[Candidate] = []
    interrupted = False
    try:
        tries = (delayed(_tried)(estimator, cell, X, sample_weight, folds, seed) for cell in settings)
        for candidate in _in_order(tries, n_jobs):
            made.append(candidate)
            _go_on(candidate)
        paths = _paths(made)
        again = (
            delayed(_mended)([made[i] for i in path], path, estimator, X, sample_weight, folds, seed)
            for path in paths
        )
        for changes in _in_order(again, n_jobs):
            for place, candidate in changes.items():
                made[place] = candidate
    except KeyboardInterrupt:
        if not keeps or not _any_complete(made):
            raise
        interrupted = True
        _tell_of_interrupt(made, len(settings))
    selection = Selection(tuple(made), criterion, interrupted)
    _require_choice(selection)
    return selection


def _in_order(calls: Iterable[Any], n_jobs: int | None) -> Iterable[Any]:
    """Yield what delayed calls return, each as soon as it is there, where the backend of joblib can do that."""
    try:
        pool = Parallel(n_jobs=n_jobs, return_as="generator")
    except ValueError:
        pool = Parallel(n_jobs=n_jobs)
    return pool(calls)


def _go_on(candidate: Candidate) -> None:
    """Raise the interrupt that a fit has kept to itself."""
    if candidate.interrupted:
        raise KeyboardInterrupt


def _any_complete(made: Iterable[Candidate]) -> bool:
    return any(candidate.failure is None for candidate in made)


def _tell_of_interrupt(made: list[Candidate], wanted: int | None) -> None:
    complete = sum(not candidate.interrupted for candidate in made)
    of_all = "" if wanted is None else f" of {wanted}"
    warn_user(
        f"The search was interrupted after {complete}{of_all} fits: the best of those is kept.",
        ConvergenceWarning,
    )


def grow(estimator: Any, X: Any, sample_weight: Any) -> Selection:
    """Return fits with one component, two, and so on, until BIC has not improved for three numbers in a row."""
    seed = _seed(estimator)
    # The first fit tells whether the rows can be fitted at all.
    made = [_tried(estimator, {"n_components": 1}, X, sample_weight, 0, seed, raises=True)]
    _go_on(made[0])
    interrupted = False
    n_rows = X.n_rows if isinstance(X, Source) else len(X)
    for k in range(2, min(MOST, n_rows // _ROWS_PER_COMPONENT) + 1):
        try:
            found = _tried(estimator, {"n_components": k}, X, sample_weight, 0, seed)
            made.append(found)
            _go_on(found)
            if _below(found, made[-2]):
                made[-1] = _split(found, made[-2], estimator, X, sample_weight, 0, seed)
        except KeyboardInterrupt:
            if getattr(estimator, "on_interrupt", "raise") != "keep" or not _any_complete(made):
                raise
            interrupted = True
            _tell_of_interrupt(made, None)
            break
        best = min(range(k), key=lambda i: made[i].loss("bic"))
        if k - 1 - best >= PATIENCE:
            break
    selection = Selection(tuple(made), interrupted=interrupted)
    _require_choice(selection)
    return selection


def _require_choice(selection: Selection) -> None:
    try:
        _ = selection.best
    except ValueError as error:
        raise FitError(str(error)) from None


def _lists(grid: Any) -> Any:
    """Return a grid in the form that scikit-learn takes."""
    if isinstance(grid, Mapping):
        return {name: list(values) for name, values in grid.items()}
    return [_lists(part) for part in grid]


def _seed(estimator: Any) -> int:
    """Return one seed for all fits, so that none depends on which others are made, or where."""
    return int(check_random_state(estimator.random_state).randint(np.iinfo(np.int32).max))


def _tried(
    estimator: Any,
    settings: Mapping[str, Any],
    X: Any,
    sample_weight: Any,
    folds: int,
    seed: int,
    *,
    raises: bool = False,
) -> Candidate:
    """Return one fit and its criteria, or why there is none.

    Parameters
    ----------
    raises : bool
        Whether an error is raised rather than told: it would be the same for every candidate.
    """
    began = time.perf_counter()
    k = settings.get("n_components", estimator.n_components)
    try:
        model: Any = clone(estimator).set_params(**{"random_state": seed, "verbose": 0, **settings})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X, sample_weight=sample_weight)
            held_out = math.nan
            if folds and not _is_cut(model):
                held_out = _held_out(model, X, sample_weight, folds, seed)
    except (ValueError, RuntimeError, MemoryError) as error:
        if raises:
            raise
        known = k if isinstance(k, int | np.integer) else 0
        told = f"{type(error).__name__}: {error}"
        return Candidate(settings, int(known), failure=told, seconds=time.perf_counter() - began)
    if _is_cut(model):
        return Candidate(
            settings,
            model.model_.n_components,
            failure=_CUT,
            seconds=time.perf_counter() - began,
            model=model,
            interrupted=True,
        )
    telling = [w for w in caught if issubclass(w.category, DegenerateComponentWarning | ConvergenceWarning)]
    remarks = tuple(dict.fromkeys(str(w.message) for w in telling))
    return _judged(model, settings, X, sample_weight, held_out, remarks, began)


def _is_cut(model: Any) -> bool:
    """Return whether a fit has kept what there was when it was interrupted."""
    return "interrupted" in model.stop_reason_


def _judged(
    model: Any,
    settings: Mapping[str, Any],
    X: Any,
    sample_weight: Any,
    held_out: float,
    remarks: Any,
    began: float,
) -> Candidate:
    """Return a fitted model with its criteria."""
    n_parameters = model._n_parameters()
    log_likelihood, certainty, n_rows = _evidence(model, X, sample_weight)
    bic = -2 * log_likelihood + n_parameters * math.log(n_rows)
    return Candidate(
        settings,
        model.model_.n_components,
        n_parameters,
        log_likelihood,
        bic,
        bic - 2 * certainty,
        -2 * log_likelihood + 2 * n_parameters,
        held_out,
        time.perf_counter() - began,
        _flaw(model, X, sample_weight),
        remarks,
        model,
    )


def _evidence(model: Any, X: Any, sample_weight: Any) -> tuple[float, float, int]:
    """Return log-likelihood, log-certainty of the codes and number of rows, from one pass over the rows."""
    fitted, source = model._asked_rows(X)
    weights = weights_of(sample_weight, source)
    total = torch.zeros(2, dtype=torch.float64)
    for block in source.blocks(1 << 14):
        log_joint = fitted.log_joint(block.x).double()
        log_prob = torch.logsumexp(log_joint, 1)
        both = torch.stack([log_prob, log_joint.amax(1) - log_prob])
        mass = None if weights is None else weights[block.start : block.stop].to(both.device)
        total += (both.sum(1) if mass is None else both @ mass).cpu()
    n_rows = source.n_rows
    if weights is not None:
        n_rows = int(torch.count_nonzero(weights))
        total *= n_rows / float(weights.sum())
    return float(total[0]), float(total[1]), n_rows


def _flaw(model: Any, X: Any, sample_weight: Any) -> str | None:
    """Return why a fit is not to be chosen: its likelihood owes something to a floor, or to fewer components."""
    unused = model.model_.n_components - model.n_effective_components_
    if unused:
        return f"{unused} of {model.model_.n_components} components are not needed"
    source, _ = model._source(X, sample_weight, reset=False)
    seen = scan(source, scan_range(source))
    family, frame = model.model_.family, model.model_.frame
    variances = floor_reference(source, family, frame, seen)
    collapsed = describe(model.model_, seen.variances_in(frame) if variances is None else variances)
    if collapsed:
        return f"components {collapsed} collapsed onto the variance floor"
    return None


def _held_out(model: Any, X: Any, sample_weight: Any, folds: int, seed: int) -> float:
    """Return the mean log-density of rows that fits of the others have not seen, over all folds."""
    n_rows = len(X)
    weights = (
        None if sample_weight is None else np.broadcast_to(np.asarray(sample_weight, np.float64), n_rows)
    )
    total = mass = 0.0
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(np.empty(n_rows)):
        part = None if weights is None else weights[train]
        fitted = clone(model).fit(_rows(X, train), sample_weight=part)
        if _is_cut(fitted):
            raise KeyboardInterrupt
        values = fitted.score_samples(_rows(X, test))
        own = np.ones(len(test)) if weights is None else weights[test]
        total += float(np.asarray(values, dtype=np.float64) @ own)
        mass += float(own.sum())
    return total / mass


def _rows(X: Any, index: Any) -> Any:
    if hasattr(X, "iloc"):
        return X.iloc[index]
    return X[torch.from_numpy(index)] if isinstance(X, Tensor) else np.asarray(X)[index]


# Warm starts along a path of K


def _paths(made: list[Candidate]) -> list[list[int]]:
    """Return the places of candidates that differ in ``n_components`` alone, by its rising values."""
    paths: dict[str, list[int]] = {}
    for place, candidate in enumerate(made):
        if isinstance(candidate.settings.get("n_components"), int | np.integer):
            paths.setdefault(candidate.label("n_components"), []).append(place)
    return [sorted(path, key=lambda i: made[i].n_components) for path in paths.values()]


def _below(candidate: Candidate, smaller: Candidate | None) -> bool:
    """Return whether a fit explains the rows worse than one with fewer components, which it could repeat."""
    if smaller is None or candidate.model is None or smaller.model is None or smaller.failure is not None:
        return False
    return candidate.log_likelihood < smaller.log_likelihood - 1e-6 * abs(smaller.log_likelihood)


def _mended(
    path: list[Candidate],
    places: list[int],
    estimator: Any,
    X: Any,
    sample_weight: Any,
    folds: int,
    seed: int,
) -> dict[int, Candidate]:
    """Return the candidates of a path, by their places, that a start from their predecessor improved."""
    changed: dict[int, Candidate] = {}
    previous: Candidate | None = None
    for place, candidate in zip(places, path, strict=True):
        found = candidate
        if previous is not None and _below(candidate, previous):
            found = _split(candidate, previous, estimator, X, sample_weight, folds, seed)
            if found is not candidate:
                changed[place] = found
        if found.failure is None:
            previous = found
    return changed


def _split(
    candidate: Candidate,
    smaller: Candidate,
    estimator: Any,
    X: Any,
    sample_weight: Any,
    folds: int,
    seed: int,
) -> Candidate:
    """Return a candidate fitted once more from a smaller one whose components are split, if that is better."""
    name = next((n for n in ("init", "init_params") if n in candidate.model.get_params(deep=False)), None)
    if name is None or isinstance(X, Source) or candidate.n_components != smaller.n_components + 1:
        return candidate
    best = candidate
    code = as_tensor(smaller.model.predict_proba(X)).double()
    rows = smaller.model._asked_rows(X)[1].x.double()
    if rows.isnan().any():  # a component has a longest axis in rows that are whole
        rows = as_tensor(smaller.model.impute(X)).double()
    for k in torch.argsort(code.sum(0), descending=True)[:_SPLITS].tolist():
        start = _halved(rows, code, k)
        started = clone(estimator).set_params(**{name: start.numpy(force=True)})
        found = _tried(started, candidate.settings, X, sample_weight, folds, seed)
        _go_on(found)
        if found.failure is None and found.loss("bic") < best.loss("bic"):
            # A start is no setting: the model is told as if it had been found by itself.
            found.model.set_params(**{name: getattr(candidate.model, name)})
            best = found
    return best


def _halved(x: Tensor, code: Tensor, k: int) -> Tensor:
    """Return responsibilities in which component k is cut in two across its longest axis, shape (n, k + 1)."""
    own = code[:, k]
    apart = x - own @ x / own.sum()
    scale = (own @ apart.square() / own.sum()).sqrt()
    apart = apart / torch.where(scale > 0, scale, 1.0)
    axis = torch.linalg.eigh((apart * own[:, None]).T @ apart)[1][:, -1]
    upper = torch.sigmoid(2 * (apart @ axis))
    return torch.cat([code[:, :k], (own * upper)[:, None], code[:, k + 1 :], (own * (1 - upper))[:, None]], 1)


__all__ = ["grow", "select"]
