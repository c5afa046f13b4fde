"""How a selection and a stability show themselves, and what a picture of a selection refuses."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch

from mixcoder import plot
from mixcoder.selection import Candidate, Selection, Stability


class Cells(HTMLParser):
    """The rows of a table, as lists of cells; every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.stack = [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def tried(*bics, **more):
    return tuple(
        Candidate({"n_components": k, "covariance_type": "full"}, k, 5 * k, -bic / 2, bic, **more)
        for k, bic in enumerate(bics, 1)
    )


def test_a_selection_is_a_table_with_the_best_first():
    failed = Candidate({"n_components": 9, "covariance_type": "<full>"}, 9, failure="a & b <collapsed>")
    heads, *rows = Cells(Selection((*tried(829.0, 574.0), failed))._repr_html_()).rows
    assert heads == [
        *("n_components", "covariance_type", "n_parameters", "log_likelihood", "bic", "seconds", "not chosen")
    ]
    assert [row[0] for row in rows] == ["2", "1", "9"]
    assert rows[0][heads.index("bic")] == "574.00"
    assert rows[-1][1] == "<full>"
    assert rows[-1][-1] == "a & b <collapsed>"
    assert all(len(row) == len(heads) for row in rows)


def test_a_selection_without_candidates_has_a_table():
    assert len(Cells(Selection(())._repr_html_()).rows) == 1


def test_a_stability_is_a_line():
    jaccard = torch.tensor([[1.0, 0.6, 0.3, torch.nan]]).double().repeat(100, 1)
    told = repr(Stability(torch.ones(100), jaccard))
    assert told == (
        "Stability of 4 clusters over 100 bootstrap samples: 1 stable, 1 doubtful, 1 dissolved, 1 no rows"
    )


def test_a_criterion_that_was_not_computed_is_asked_for():
    with pytest.raises(ValueError, match=r"No candidate has 'held_out'.*criterion='held_out'"):
        plot.SelectionDisplay.from_selection(Selection(tried(829.0, 574.0)), criterion="held_out")
    with_it = Selection(tried(829.0, 574.0, held_out=-1.0))
    assert plot.SelectionDisplay.from_selection(with_it, criterion="held_out").failed_ is None
