"""Models that were tried, and which of them to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

CRITERIA = ("bic", "icl", "aic", "held_out")
"""Names by which models are compared; in nats per row for ``held_out``, which is to be large, the others small."""
"""What a model can be chosen by; of "held_out" more is better, of the others less."""


@dataclass(frozen=True)
class Candidate:
    """One model that was tried.

    Parameters
    ----------
    settings : mapping of str to object
        The parameters by which it differs from the others.
    n_components : int
    n_parameters : int
        Free ones, weights included.
    log_likelihood : float
        Of all rows, in nats; NaN if the fit failed.
    bic, icl, aic : float
        Less is better.
    held_out : float
        Mean log-density of rows that a fit has not seen, in nats per row; NaN if it was not asked for.
    seconds : float
    failure : str, optional
        Why there is no model, or why it is not to be chosen.
    remarks : tuple of str
        What the fit warned of.
    model : object, optional
        The fitted estimator.
    interrupted : bool
        Whether somebody ended the fit before its time; it is then not to be chosen.

    Examples
    --------
    >>> tried = Candidate({"n_components": 2}, n_components=2, bic=574.0)
    >>> tried.loss("bic"), tried.label()
    (574.0, 'n_components=2')
    >>> Candidate({"n_components": 9}, n_components=9, failure="a component collapsed").loss("bic")
    inf
    """

    settings: Mapping[str, Any]
    n_components: int
    n_parameters: int = 0
    log_likelihood: float = math.nan
    bic: float = math.nan
    icl: float = math.nan
    aic: float = math.nan
    held_out: float = math.nan
    seconds: float = 0.0
    failure: str | None = None
    remarks: tuple[str, ...] = ()
    model: Any = None
    interrupted: bool = False

    def loss(self, criterion: str) -> float:
        """Return what to make small; infinite if the candidate is not to be chosen."""
        value = getattr(self, criterion)
        if self.failure is not None or math.isnan(value):
            return math.inf
        return -value if criterion == "held_out" else value

    def label(self, without: str = "") -> str:
        """Return the settings in words, all but one."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items() if name != without)


@dataclass(frozen=True)
class Selection:
    """All models that were tried.

    Parameters
    ----------
    candidates : tuple of Candidate
    criterion : str
        One of :data:`CRITERIA`.
    interrupted : bool
        Whether somebody ended the search before all were tried.

    Examples
    --------
    >>> tried = [
    ...     Candidate({"n_components": k}, n_components=k, bic=bic) for k, bic in [(1, 829.0), (2, 574.0)]
    ... ]
    >>> chosen = Selection(tuple(tried), criterion="bic")
    >>> dict(chosen.best.settings)
    {'n_components': 2}
    """

    candidates: tuple[Candidate, ...]
    criterion: str = "bic"
    interrupted: bool = False

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {CRITERIA}, got {self.criterion!r}.")

    @property
    def ranked(self) -> list[Candidate]:
        """The candidates, the best first; those that are not to be chosen last."""
        return sorted(self.candidates, key=lambda c: c.loss(self.criterion))

    @property
    def best(self) -> Candidate:
        """The candidate with the best criterion.

        Raises
        ------
        ValueError
            If none can be chosen; says why not.
        """
        best = self.ranked[0] if self.candidates else None
        if best is None or math.isinf(best.loss(self.criterion)):
            reasons = "; ".join(f"{c.label()}: {c.failure}" for c in self.candidates[:5])
            raise ValueError(
                f"None of {len(self.candidates)} models can be chosen: {reasons or 'none was tried'}."
            )
        return best

    @property
    def best_model(self) -> Any:
        """The fitted estimator of the best candidate."""
        return self.best.model

    def as_records(self) -> list[dict[str, Any]]:
        """Return the candidates as rows of a table, in the order in which they were tried."""
        names = ("n_parameters", "log_likelihood", "bic", "icl", "aic", "held_out", "seconds", "failure")
        return [
            {**c.settings, "n_components": c.n_components, **{name: getattr(c, name) for name in names}}
            for c in self.candidates
        ]

    def __str__(self) -> str:
        ended = "; the search was interrupted" if self.interrupted else ""
        lines = [f"{len(self.candidates)} models by {self.criterion}, the best first{ended}"]
        for c in self.ranked:
            score = getattr(c, self.criterion)
            told = f"not chosen: {c.failure}" if c.failure is not None else f"{score:.2f}"
            lines.append(f"  {c.label() or 'as given'}: {told}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: the best first, and of the criteria those that were computed."""
        criteria = [c for c in CRITERIA if any(not math.isnan(getattr(one, c)) for one in self.candidates)]
        settings = list(dict.fromkeys(name for c in self.candidates for name in c.settings))
        more = [] if "n_components" in settings else ["n_components"]
        heads = [*settings, *more, "n_parameters", "log_likelihood", *criteria, "seconds", "not chosen"]
        rows = "".join(
            _row(
                "td",
                [
                    *(str(c.settings.get(name, "")) for name in settings),
                    *(str(getattr(c, name)) for name in (*more, "n_parameters")),
                    *(_told(getattr(c, name)) for name in ("log_likelihood", *criteria, "seconds")),
                    c.failure or "",
                ],
            )
            for c in self.ranked
        )
        caption = f"{len(self.candidates)} models by {self.criterion}, the best first"
        head = f"<caption>{escape(caption)}</caption><thead>{_row('th', heads)}</thead>"
        return f"<table>{head}<tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        return f"Selection of {len(self.candidates)} candidates by {self.criterion!r}"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _told(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}" if abs(value) >= 10 else f"{value:.4g}"


__all__ = ["CRITERIA", "Candidate", "Selection"]
