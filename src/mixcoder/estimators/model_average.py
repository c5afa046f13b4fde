"""Several fitted mixtures as one density: Bayesian model averaging and stacking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.estimators._validation import as_tensor, like_input, numbers_of
from mixcoder.estimators.bayesian_gaussian_mixture import BayesianGaussianMixture
from mixcoder.fitting.acceleration import Leap
from mixcoder.statistics import Statistics

# Stacking ends when no weights at all can raise the mean log-density by more than this, in nats a row.
_GAP = 1e-10
_MAX_LEAPS = 10_000

# Share of the rows by which codes in single precision may miscount them.
_COUNTING = 1e-6

_CRITERIA = ("stacking", "likelihood", "bic", "aic")


class ModelAverage:
    r"""The average of fitted models, a density again.

    .. math:: p(x) = \sum_m w_m\, p(x|m), \qquad w_m \propto p(m)\, p(X|m)

    By Jensen's inequality :math:`\log p(x) \ge \sum_m w_m \log p(x|m)`: the average predicts at least as well
    as its members do on average.

    Parameters
    ----------
    models : sequence of estimators
        Fitted to the same features; each with ``log_predictive`` or ``score_samples`` for its log-density in
        nats, and ``sample``. Mixtures of this library and scikit-learn's are.
    log_evidence : array-like, shape (n_models,)
        log p(X | m) in nats, up to one constant; -inf for a model that is out of the question.
    prior : array-like, shape (n_models,), optional
        p(m), non-negative with a positive sum; default: all equal.

    Attributes
    ----------
    models : tuple
    weights : array, shape (n_models,)
        Summing to one.
    gap : float
        Nats a row by which other weights could at most raise the criterion of ``stacking``; else 0.

    Notes
    -----
    There is no ``fit``: the models are fitted before. :func:`sklearn.base.clone` returns an average of the same fitted
    models.

    See Also
    --------
    from_rows : weights from rows.
    from_evidence : weights from the lower bounds of :class:`BayesianGaussianMixture`.

    References
    ----------
    Hoeting, Madigan, Raftery & Volinsky (1999), equations 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder import GaussianMixture, ModelAverage
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> models = [GaussianMixture(k, random_state=0).fit(X[:100]) for k in (1, 2)]
    >>> average = ModelAverage.from_rows(models, X[100:], "stacking")
    >>> average.score(X[100:]) > max(model.score(X[100:]) for model in models) - 1e-9
    True
    """

    def __init__(self, models: Sequence[Any], log_evidence: Any, *, prior: Any = None) -> None:
        self.models = _checked(models)
        n_models = len(self.models)
        evidence = _vector(log_evidence, n_models, "log_evidence", finite=False)
        shares = (
            torch.ones(n_models, dtype=torch.float64) if prior is None else _vector(prior, n_models, "prior")
        )
        if bool((shares < 0).any()) or not float(shares.sum()) > 0:
            raise ValueError(f"prior must be non-negative with a positive sum, got {prior!r}.")
        log_joint = shares.log() + evidence
        if bool((evidence == math.inf).any()) or not bool(torch.isfinite(log_joint).any()):
            raise ValueError(
                f"log_evidence must be below inf, and finite for a model of positive prior, got {log_evidence!r}."
            )
        self._log_weights = torch.log_softmax(log_joint, 0)
        self.gap = 0.0

    @classmethod
    def from_rows(
        cls,
        models: Sequence[Any],
        X: Any,
        criterion: str = "stacking",
        *,
        prior: Any = None,
        sample_weight: Any = None,
    ) -> Self:
        r"""Return the average with weights that rows give.

        Parameters
        ----------
        models : sequence of estimators
        X : array-like, shape (n_samples, n_features)
            Rows that no model was fitted to, for "stacking" and "likelihood"; those that all were fitted to,
            for "bic" and "aic".
        criterion : {"stacking", "likelihood", "bic", "aic"}
            "stacking": the weights that maximise :math:`\sum_n \log \sum_m w_m p(x_n|m)`, by EM; in the limit of
            many rows the best average there is, whether or not a model is true.
            "likelihood": Bayes' rule, :math:`w_m \propto p(m) \prod_n p(x_n|m)`; in the limit the one best model.
            "bic" and "aic": :math:`w_m \propto p(m) e^{-\mathrm{BIC}_m/2}`, which stands in for the evidence, and
            Akaike's weights.
        prior : array-like, shape (n_models,), optional
            p(m); not for "stacking".
        sample_weight : array-like, shape (n_samples,), optional
            How often a row counts; not for "bic" and "aic".

        References
        ----------
        Yao, Vehtari, Simpson & Gelman (2018), section 3, for stacking of densities. Schwarz (1978).
        """
        models = _checked(models)
        if criterion not in _CRITERIA:
            raise ValueError(f"criterion={criterion!r} is not one of {list(_CRITERIA)}.")
        if criterion in ("bic", "aic"):
            if sample_weight is not None:
                raise ValueError(
                    f"criterion={criterion!r} takes no sample_weight: the models' own take none."
                )
            for model in models:
                if not hasattr(model, criterion):
                    raise ValueError(
                        f"{type(model).__name__} has no {criterion}; try 'stacking' or 'likelihood'."
                    )
            return cls(models, [-0.5 * getattr(model, criterion)(X) for model in models], prior=prior)
        log_densities = _log_densities(models, X)
        counts = torch.ones(len(log_densities), dtype=torch.float64)
        if sample_weight is not None:
            counts = _vector(sample_weight, len(log_densities), "sample_weight").to(log_densities.device)
            if bool((counts < 0).any()) or not float(counts.sum()) > 0:
                raise DataError("sample_weight must be non-negative with a positive sum.")
        counts = counts.to(log_densities.device)
        seen = counts > 0
        log_densities, counts = log_densities[seen], counts[seen]
        if criterion == "likelihood":
            return cls(models, (counts @ log_densities).cpu(), prior=prior)
        if prior is not None:
            raise ValueError("criterion='stacking' takes no prior: the rows alone choose.")
        weights, gap = stacking_weights(log_densities, counts)
        average = cls(models, weights.log().cpu())
        average.gap = gap
        return average

    @classmethod
    def from_evidence(cls, models: Sequence[Any], *, prior: Any = None) -> Self:
        r"""Return the average with weights from the models' evidence lower bounds.

        .. math:: \log p(X|m) \approx F_m + \log \frac{K!}{(K - K_+)!}

        The second term, for Dirichlet weights, counts the equal optima that permutations of the K_+ components in
        use make. The models must have been fitted to the same rows, at temperature 1 of codes and posterior: at another
        the bound is none on the evidence.

        Raises
        ------
        ValueError
            A model is no BayesianGaussianMixture, has another temperature, or was fitted to more or fewer rows, weights
            included, than the first.

        References
        ----------
        Bishop (2006), section 10.2.4.
        """
        models = _checked(models)
        evidence: list[float] = []
        for model in models:
            _require_evidence(model)
            k, used = model.n_components, model.n_effective_components_
            exchangeable = not isinstance(model.weight_concentration_, tuple)
            modes = math.lgamma(k + 1) - math.lgamma(k - used + 1) if exchangeable else 0.0
            evidence.append(model.lower_bound_ + modes)
        _require_same_rows(models)
        return cls(models, evidence, prior=prior)

    @property
    def weights(self) -> np.ndarray[Any, Any]:
        """Weights of the models, shape (n_models,), summing to one."""
        return self._log_weights.exp().numpy()

    def log_prob(self, X: Any) -> Any:
        """Return the log-density of each row under the average, in nats, shape (n_samples,)."""
        return like_input(torch.logsumexp(self._log_joint(X), 1), X)

    def score_samples(self, X: Any) -> Any:
        """Return ``log_prob``, under scikit-learn's name."""
        return self.log_prob(X)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density of the rows, in nats."""
        del y
        return float(torch.logsumexp(self._log_joint(X), 1).mean())

    def model_proba(self, X: Any) -> Any:
        r"""Return :math:`p(m|x) \propto w_m p(x|m)` of each row, shape (n_samples, n_models)."""
        return like_input(self._model_proba(X), X)

    def predict_proba(self, X: Any) -> Any:
        r"""Return :math:`p(k|x) = \sum_m p(m|x)\, p(k|x, m)`, shape (n_samples, n_components).

        Components are those of the first model; those of the others are matched to them one to one, so that the
        squared distances of the means, in units of their spread, have the least sum.

        Raises
        ------
        ValueError
            The models differ in their number of components, or have no means: nothing to compare.
        """
        means = [_means_of(model) for model in self.models]
        if len({mean.shape for mean in means}) > 1:
            raise ValueError(
                f"Components can be compared between models of as many, got {[len(mean) for mean in means]}; "
                "model_proba tells which model explains a row."
            )
        unit = means[0].std(0, correction=0)
        unit = torch.where(unit > 0, unit, 1.0)
        shares = self._model_proba(X)
        total = torch.zeros(len(shares), len(means[0]), dtype=torch.float64, device=shares.device)
        for m, (model, mean) in enumerate(zip(self.models, means, strict=True)):
            costs = torch.cdist(means[0] / unit, mean / unit).square()
            _, matched = linear_sum_assignment(costs.numpy())
            code = _tensor(model.predict_proba(X))[:, torch.from_numpy(matched)]
            total += shares[:, m : m + 1] * code
        return like_input(total, X)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        """Return random rows, shape (n_samples, n_features), and the model of each, shape (n_samples,)."""
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples}. The sampling requires at least one sample."
            )
        rng = check_random_state(random_state)
        index = rng.choice(len(self.models), size=int(n_samples), p=self.weights / self.weights.sum())
        rows: np.ndarray[Any, Any] | None = None
        for m, model in enumerate(self.models):
            chosen = np.flatnonzero(index == m)
            seed = int(rng.randint(np.iinfo(np.int32).max))
            if not len(chosen):
                continue
            drawing = copy(model)
            drawing.random_state = seed
            drawn = _tensor(drawing.sample(len(chosen))[0]).cpu().numpy()
            if rows is None:
                rows = np.empty((int(n_samples), drawn.shape[1]))
            # scikit-learn's rows come sorted by component.
            rows[chosen] = rng.permutation(drawn)
        return rows, index

    def save(self, path: Any, *, overwrite: bool = True) -> str:
        """Write the average and all of its models to one file and return the SHA-256 of its content.

        The file is replaced whole or not at all. Read it back with :func:`mixcoder.load`.

        Raises
        ------
        UnknownModelError
            A model is not one of this library's; such an average can be pickled.
        """
        from mixcoder.estimators._persistence import save

        return save(self, path, overwrite=overwrite)

    def __sklearn_clone__(self) -> Self:
        """Return an average of the same models: it has nothing that a fit would learn anew."""
        return copy(self)

    def _log_joint(self, X: Any) -> Tensor:
        log_densities = _log_densities(self.models, X)
        return log_densities + self._log_weights.to(log_densities.device)

    def _model_proba(self, X: Any) -> Tensor:
        return torch.softmax(self._log_joint(X), 1)

    def __repr__(self) -> str:
        """Return names and weights."""
        told = ", ".join(
            f"{type(model).__name__}: {weight:.3g}"
            for model, weight in zip(self.models, self.weights, strict=True)
        )
        return f"ModelAverage({told})"


def stacking_weights(log_densities: Tensor, counts: Tensor) -> tuple[Tensor, float]:
    r"""Return the weights w that maximise the mean of log sum_m w_m p_nm, and how far they may be from it.

    EM with SQUAREM's leaps: :math:`w_m \leftarrow w_m g_m`, g_m the mean over rows of
    :math:`p_{nm} / \sum_j w_j p_{nj}`. The objective is concave, so :math:`\log \max_m g_m` bounds what is left to
    gain, and at the optimum g is one where w is positive, and nowhere more.

    Parameters
    ----------
    log_densities : Tensor, shape (n, m)
        In nats; -inf for a row that a model holds impossible.
    counts : Tensor, shape (n,)
        How often each row counts; positive.

    Returns
    -------
    weights : Tensor, shape (m,)
    gap : float
        Nats a row.
    """
    level = log_densities.amax(1, keepdim=True)
    if not bool(torch.isfinite(level).all()):
        row = int(torch.nonzero(~torch.isfinite(level))[0, 0])
        raise DataError(f"Row {row} is impossible under every model: no weights of them explain it.")
    densities, shares = (log_densities - level).exp(), counts / counts.sum()

    def step(weights: Tensor) -> tuple[Tensor, float, float]:
        """Return the next weights, the objective at these, and how far these may be from the best."""
        mixed = densities @ weights
        gains = (shares / mixed) @ densities
        following = weights * gains
        return (
            following / following.sum(),
            float(shares @ mixed.log()),
            max(0.0, math.log(float(gains.amax()))),
        )

    n_models, leap = log_densities.shape[1], Leap()
    weights = log_densities.new_full((n_models,), 1.0 / n_models)
    following, _, gap = step(weights)
    for _ in range(_MAX_LEAPS):
        if gap <= _GAP:
            break
        third, _, _ = step(following)
        floor = step(third)[1]
        target, length = leap(_Shares(weights), _Shares(following), _Shares(third))
        weights = third
        if target is not None:
            landed, _, _ = step(target.counts / target.counts.sum())  # type: ignore[attr-defined]
            accepted = step(landed)[1] >= floor
            weights, leap = (landed if accepted else third), leap.after(length, accepted=accepted)
        following, _, gap = step(weights)
    return weights, gap


@dataclass(frozen=True)
class _Shares(Statistics):
    """Weights as sums, for the leaps of SQUAREM."""

    counts: Tensor


def _checked(models: Sequence[Any]) -> tuple[Any, ...]:
    """Return the models, all of them fitted densities of the same features."""
    if not isinstance(models, Sequence):
        raise TypeError(
            f"models must be a sequence of fitted models, got {type(models).__name__}: put it in a list."
        )
    models = tuple(models)
    if not models:
        raise ValueError("ModelAverage needs at least one fitted model, got none.")
    for model in models:
        if not hasattr(model, "score_samples"):
            raise TypeError(f"{type(model).__name__} is no density: it has no score_samples.")
        check_is_fitted(model)
    widths = {int(model.n_features_in_) for model in models}
    if len(widths) > 1:
        raise ValueError(f"The models were fitted to different numbers of features: {sorted(widths)}.")
    return models


def _require_evidence(model: Any) -> None:
    """Raise a ValueError where the bound of a model is none on the evidence."""
    if not isinstance(model, BayesianGaussianMixture):
        raise ValueError(
            f"{type(model).__name__} has no evidence: fit mixcoder.BayesianGaussianMixture, or use from_rows."
        )
    # Those of the fit: the parameters may have been set to others since.
    temperatures = {
        "temperature": 1.0 / model.model_.encoder.beta,
        "posterior_temperature": model._posterior_temperature,
    }
    for name, value in temperatures.items():
        if value != 1.0:
            raise ValueError(
                f"A model was fitted with {name}={value:g}, whose lower bound is none on the evidence: fit it with "
                f"{name}=1, or use from_rows."
            )


def _require_same_rows(models: Sequence[Any]) -> None:
    """Raise a ValueError where models have seen different numbers of rows, which are what q counts beyond its prior."""
    counts: list[float] = []
    slack = 0.0
    for model in models:
        prior = len(model._mean_precisions) * model.mean_precision_prior_
        counts.append(float(model._mean_precisions.sum()) - prior)
        slack = max(slack, _COUNTING * counts[-1] + 16 * torch.finfo(torch.float64).eps * prior)
    if max(counts) - min(counts) > slack:
        raise ValueError(
            f"The models were fitted to different numbers of rows, weights included: {[round(n, 3) for n in counts]}. "
            "Evidence compares models of the same rows: fit all to the same, or use from_rows."
        )


def _log_densities(models: Sequence[Any], X: Any) -> Tensor:
    """Return log p(x_n | m), shape (n, m), in float64."""
    columns = [
        _tensor(model.log_predictive(X) if hasattr(model, "log_predictive") else model.score_samples(X))
        for model in models
    ]
    return torch.stack(columns, 1)


def _tensor(values: Any) -> Tensor:
    tensor = values if isinstance(values, Tensor) else as_tensor(np.asarray(values))
    return tensor.detach().to(torch.float64)


def _means_of(model: Any) -> Tensor:
    if not hasattr(model, "means_"):
        raise ValueError(
            f"{type(model).__name__} has no means_: its components cannot be compared with others."
        )
    return _tensor(model.means_).cpu()


def _vector(values: Any, n: int, name: str, *, finite: bool = True) -> Tensor:
    numbers = numbers_of(values, name) if finite else _extended(values, name)
    if tuple(numbers.shape) != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {tuple(numbers.shape)}.")
    if bool(torch.isnan(numbers).any()):
        raise ValueError(f"{name} contains NaN.")
    return numbers.to(torch.float64)


def _extended(values: Any, name: str) -> Tensor:
    """Return numbers that may be infinite or NaN, float64."""
    numbers = values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)
    finite = np.nan_to_num(numbers) if numbers.dtype.kind == "f" else numbers
    numbers_of(None if values is None else finite, name)  # refuses what is no number
    return as_tensor(numbers.astype(np.float64))


__all__ = ["ModelAverage", "stacking_weights"]
