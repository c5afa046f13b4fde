"""Whatever comes in, one of three ends: the right answer, the right answer with a warning, or an error that says
what is wrong, where, and what to do. Never NaN, never silence, never another input than before.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils._param_validation import InvalidParameterError

from mixcoder import BayesianGaussianMixture, GaussianMixture, KMeans, Mixture
from mixcoder.components import Bernoulli, Poisson
from mixcoder.encoders import Argmax, Tempered
from mixcoder.errors import (
    DataError,
    DataTypeError,
    DegenerateComponentWarning,
    DegenerateFeatureWarning,
    FitError,
    OverfitWarning,
    PrecisionWarning,
)

NAMES = ["height", "weight", "age"]
COVARIANCES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
LABELS = np.repeat([0, 1, 2], 20)
X = np.vstack([np.random.default_rng(7).normal(centre, 1.0, (20, 3)) for centre in (0.0, 6.0, 12.0)])

MAKERS = {
    "KMeans": lambda k=3: KMeans(k, random_state=0),
    **{c: (lambda k=3, c=c: GaussianMixture(k, covariance_type=c, random_state=0)) for c in COVARIANCES},
    **{
        f"Bayes {c}": (lambda k=3, c=c: BayesianGaussianMixture(k, covariance_type=c, random_state=0))
        for c in ("full", "tied", "diag", "spherical")
    },
    "hard": lambda k=3: GaussianMixture(k, temperature=0.0, random_state=0),
    "Mixture": lambda k=3: Mixture("student_t", k, random_state=0),
}
FEW = ("KMeans", "full", "Mixture")  # one of each class
QUESTIONS = ("predict", "encode", "transform", "reconstruct", "rate", "distortion", "score")
WITHOUT_PRIOR = [name for name in MAKERS if not name.startswith("Bayes")]
DENSITY_QUESTIONS = ("predict_proba", "score_samples", "bic", "aic", "icl")


def questions_of(model):
    return QUESTIONS + tuple(name for name in DENSITY_QUESTIONS if hasattr(model, name))


def methods_of(model):
    """Return the methods that fit."""
    return [name for name in ("fit", "partial_fit", "fit_predict") if hasattr(model, name)]


@pytest.fixture(scope="module")
def fitted():
    """Return the models fitted to the plain rows, by name."""
    return {name: make().fit(X) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def fitted_to_frame():
    """Return the models fitted to named columns."""
    return {name: MAKERS[name]().fit(pd.DataFrame(X, columns=NAMES)) for name in FEW}


def with_value(value, row=5, column=1, dtype=None):
    """Return the rows with one other value."""
    changed = X.astype(dtype) if dtype else X.copy()
    changed[row, column] = value
    return changed


def frame(**columns):
    """Return a data frame of the rows with some columns replaced."""
    return pd.DataFrame(X, columns=NAMES).assign(**columns)


def numbers_in(model):
    """Return every fitted number that a model shows."""
    names = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "cluster_centers_")
    shown = [np.ravel(getattr(model, name)) for name in names if hasattr(model, name)]
    shown += [[getattr(model, name)] for name in ("lower_bound_", "inertia_") if hasattr(model, name)]
    return np.concatenate([np.asarray(values, dtype=float) for values in shown])


def answers_of(model, rows):
    """Return everything that a model says about rows."""
    return {name: np.asarray(getattr(model, name)(rows), dtype=float) for name in questions_of(model)}


def assert_sound(model, rows, *, digits=True):
    """Check that no answer is NaN or infinite, and that probabilities are some."""
    if digits:
        assert np.isfinite(numbers_in(model)).all()
    weights = np.asarray(model.weights_, dtype=float)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-6)
    if not isinstance(model, BayesianGaussianMixture):  # whose weights are never zero
        assert model.n_effective_components_ == np.count_nonzero(weights)
    for name, answer in answers_of(model, rows).items():
        assert np.isfinite(answer).all(), name
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(np.asarray(model.predict_proba(rows)).sum(1), 1.0, rtol=1e-5)


# Every form of a table of numbers


def read_only(values):
    values.setflags(write=False)
    return values


def unaligned(values):
    raw = np.frombuffer(b"." + values.tobytes(), dtype=np.uint8)
    return np.ndarray(values.shape, values.dtype, raw, offset=1)


def memory_mapped(values, folder):
    values.tofile(folder / "rows.bin")
    return np.memmap(folder / "rows.bin", dtype=values.dtype, mode="r", shape=values.shape)


FORMS = {
    "list": lambda x, _: x.tolist(),
    "tuples": lambda x, _: tuple(map(tuple, x.tolist())),
    "list of arrays": lambda x, _: list(x),
    "memmap": memory_mapped,
    "read-only": lambda x, _: read_only(x.copy()),
    "unaligned": lambda x, _: unaligned(x),
    "Fortran": lambda x, _: np.asfortranarray(x),
    "strided": lambda x, _: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "negative strides": lambda x, _: x[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda x, _: x.astype(">f8"),
    "longdouble": lambda x, _: x.astype(np.longdouble),
    "objects": lambda x, _: x.astype(object),
    "Decimal": lambda x, _: np.array([[Fraction(v) for v in row] for row in x.tolist()], dtype=object),
    "unmasked": lambda x, _: np.ma.array(x),
    "pandas": lambda x, _: pd.DataFrame(x, columns=NAMES),
    "pandas, nullable": lambda x, _: pd.DataFrame(x, columns=NAMES).astype("Float64"),
    "pandas, objects": lambda x, _: pd.DataFrame(x, columns=NAMES).astype(object),
    "polars": lambda x, _: pl.DataFrame(x, schema=NAMES),
    "tensor": lambda x, _: torch.tensor(x),
    "tensor, transposed": lambda x, _: torch.tensor(x.T.copy()).T,
    "tensor with gradient": lambda x, _: torch.tensor(x, requires_grad=True),
}
NARROW_FORMS = {
    "float32": lambda x: x.astype(np.float32),
    "float32, big-endian": lambda x: x.astype(">f4"),
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: x.astype(np.int64),
    "int8": lambda x: x.astype(np.int8),
    "uint8": lambda x: np.abs(x).astype(np.uint8),
    "big-endian int": lambda x: x.astype(">i4"),
    "bool": lambda x: x > 6,
    "Decimal": lambda x: np.array([[Decimal(round(v, 3)) for v in row] for row in x.tolist()], dtype=object),
    "pandas Int64": lambda x: pd.DataFrame(x, columns=NAMES).round().astype("Int64"),
    "pandas categories of numbers": lambda x: (
        pd.DataFrame(x, columns=NAMES).round().astype({"age": "category"})
    ),
    "pandas bool": lambda x: pd.DataFrame(x, columns=NAMES).assign(tall=x[:, 0] > 6),
    "polars ints": lambda x: pl.DataFrame(x.astype(int), schema=NAMES),
    "tensor, float32": lambda x: torch.tensor(x).float(),
    "tensor, float16": lambda x: torch.tensor(x).half(),
    "tensor, bfloat16": lambda x: torch.tensor(x).bfloat16(),
    "tensor, int": lambda x: torch.tensor(x).long(),
    "tensor, bool": lambda x: torch.tensor(x) > 6,
}


def checksum(rows):
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().double().numpy()
    if isinstance(rows, np.ndarray) and rows.dtype != object:
        return hashlib.sha256(rows.tobytes()).hexdigest() + str(rows.strides) + str(rows.dtype)
    return repr(rows.to_dict() if hasattr(rows, "to_dict") else rows)


@pytest.mark.parametrize("name", ["KMeans", "full", "diag"])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_rows_changes_nothing(form, name, tmp_path, fitted):
    rows = FORMS[form](X, tmp_path)
    before = checksum(rows)
    model = MAKERS[name]().fit(rows)
    expected = fitted[name]
    np.testing.assert_allclose(numbers_in(model), numbers_in(expected), rtol=1e-9, atol=1e-12)
    for question, answer in answers_of(expected, X).items():
        ours = getattr(model, question)(rows)
        if isinstance(rows, torch.Tensor) and question in ("predict", "encode", "transform", "reconstruct"):
            assert isinstance(ours, torch.Tensor)
        np.testing.assert_allclose(np.asarray(ours), answer, rtol=1e-8, atol=1e-9, err_msg=question)
    model.partial_fit(rows)
    assert checksum(rows) == before


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["KMeans", "full"])
@pytest.mark.parametrize("form", NARROW_FORMS)
def test_narrow_numbers_are_widened_before_anything_is_computed(form, name):
    rows = NARROW_FORMS[form](X)
    before = checksum(rows)
    model = MAKERS[name](2 if "bool" in form else 3).fit(rows)
    wide = rows.double().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows, dtype=np.float64)
    expected = MAKERS[name](2 if "bool" in form else 3).fit(wide)
    single = "float32" in form
    np.testing.assert_allclose(
        numbers_in(model), numbers_in(expected), rtol=1e-4 if single else 1e-9, atol=1e-5 if single else 1e-12
    )
    assert (np.asarray(model.predict(rows)) == expected.predict(wide)).all()
    assert checksum(rows) == before


# What is no table of numbers

BIG = np.arange(200_000.0)


def matrix():
    """Return an object that NumPy itself warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(X)


REFUSED = {
    "infinity": (lambda: with_value(np.inf), DataError, r"infinity or a value too large.*row 5, column 1\b"),
    "-infinity": (lambda: with_value(-np.inf), DataError, r"infinity.*row 5, column 1\b"),
    "NaN and infinity": (
        lambda: with_value(np.nan) + with_value(np.inf, 9),
        DataError,
        "[12] of 180",  # where NaN is a missing entry, only infinity is wrong
    ),
    "text in an array": (
        lambda: with_value("a", dtype=object),
        DataError,
        "string to float.*'a' at row 5, column 1",
    ),
    "a number as text": (
        lambda: with_value("1.5", dtype=object),
        DataError,
        "string to float.*'1.5' at row 5",
    ),
    "an array of text": (lambda: X.astype(str), DataError, "string to float.*dtype <U"),
    "an array of bytes": (lambda: X.astype(bytes), DataError, "string to float.*dtype |S"),
    "text in a list": (
        lambda: [[1.0, 2.0, "b"], *X.tolist()],
        DataError,
        "string to float.*'b' at row 0, column 2",
    ),
    "masked": (
        lambda: np.ma.array(X, mask=X > 13),
        DataError,
        r"masked array with \d+ masked values.*impute",
    ),
    "dates": (lambda: np.full((9, 3), np.datetime64("2020-01-01")), DataTypeError, "dates are not numbers"),
    "durations": (lambda: np.full((9, 3), np.timedelta64(1, "D")), DataTypeError, "dates are not numbers"),
    "a date": (lambda: with_value(dt.date(2020, 1, 1), dtype=object), DataTypeError, "row 5, column 1"),
    "a dict": (lambda: with_value({}, dtype=object), DataTypeError, r"X holds \{\} at row 5, column 1"),
    "complex": (lambda: X + 1j, DataTypeError, "Complex data not supported"),
    "a complex number": (lambda: with_value(1j, dtype=object), DataTypeError, "row 5, column 1"),
    "complex list": ((X + 1j).tolist, DataTypeError, "Complex data not supported"),
    "complex tensor": (lambda: torch.tensor(X) + 1j, DataTypeError, "Complex data not supported"),
    "sparse": (lambda: sparse.csr_array(X), DataTypeError, "Sparse data was passed.*toarray"),
    "sparse dictionary": (lambda: sparse.dok_array(X), DataTypeError, "Sparse data was passed.*toarray"),
    "sparse tensor": (lambda: torch.tensor(X).to_sparse(), DataTypeError, "Sparse data was passed.*to_dense"),
    "sparse columns": (lambda: frame().astype(pd.SparseDtype(float)), DataTypeError, "'height'.*dense"),
    "np.matrix": (matrix, TypeError, "np.matrix is not supported"),
    "records": (lambda: np.rec.fromarrays(X.T, names="a,b,c"), DataTypeError, "must be a table"),
    "None at all": (
        lambda: None,
        DataTypeError,
        r"must be a table of numbers \(rows, features\), got NoneType",
    ),
    "a path": (lambda: "rows.csv", DataTypeError, "got str. Read the file first"),
    "a dictionary": (lambda: {"a": [1.0]}, DataTypeError, "must be a table.*got dict"),
    "a set": (lambda: {1, 2}, DataTypeError, "must be a table.*got set"),
    "a generator": (lambda: (row for row in X), DataTypeError, "must be a table.*got generator"),
    "a number": (lambda: 3.0, DataTypeError, "must be a table.*got float"),
    "ragged": (lambda: [[1.0, 2.0], [3.0]], DataTypeError, r"rows have \[1, 2\] entries"),
    "one axis": (lambda: BIG, DataError, r"^Expected 2D array, got 1D array of shape \(200000,\).*Reshape"),
    "one axis, list": (lambda: [1.0, 2.0], DataError, "Expected 2D array, got 1D array.*Reshape"),
    "one axis, tensor": (lambda: torch.tensor(BIG), DataError, "Expected 2D array, got 1D"),
    "no axis": (lambda: np.array(1.0), DataError, "Expected 2D array, got scalar array"),
    "a column": (lambda: frame()["age"], DataError, "Expected 2D array, got 1D array"),
    "three axes": (lambda: X[None], DataError, r"dim 3.*shape \(1, 60, 3\)"),
    "three axes, tensor": (lambda: torch.tensor(X)[None], DataError, "got 3D tensor"),
    "no rows": (lambda: X[:0], ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum"),
    "no rows, tensor": (lambda: torch.tensor(X[:0]), DataError, r"0 sample\(s\) \(shape=\(0, 3\)\) while"),
    "no columns": (lambda: X[:, :0], ValueError, r"0 feature\(s\) \(shape=\(60, 0\)\) while"),
    "no columns, tensor": (
        lambda: torch.tensor(X[:, :0]),
        DataError,
        r"0 feature\(s\) \(shape=\(60, 0\)\) while",
    ),
}
# Missing entries: accepted by mixtures whose families integrate them out, refused by the others.
MISSING = {
    "NaN": (lambda: with_value(np.nan), r"Input X contains NaN: 1 of 180 .* row 5, column 1\b.*impute"),
    "NaN in a tensor": (lambda: torch.tensor(with_value(np.nan)), "NaN.*row 5, column 1"),
    "None": (lambda: with_value(None, dtype=object), "NaN: 1 of 180.*row 5, column 1"),
    "pandas NA": (lambda: with_value(pd.NA, dtype=object), "NaN: 1 of 180.*row 5, column 1"),
    "None in a list": (lambda: [[1.0, 2.0, None], *X.tolist()], "NaN: 1 of 183.*row 0, column 2"),
}
FRAMES_MISSING = {
    "NaN": (lambda: frame(weight=with_value(np.nan)[:, 1]), r"NaN.*row 5, column 1 \('weight'\)"),
    "NaN in polars": (
        lambda: pl.DataFrame(with_value(np.nan), schema=NAMES),
        r"NaN: 1 of 180.*row 5, column 1 \('weight'\)",
    ),
    "null": (
        lambda: pl.DataFrame({"height": [1, None, 3], "weight": [1, 2, 3], "age": [3, 2, 1]}),
        r"NaN: 1 of 9.*row 1, column 0 \('height'\)",
    ),
    "NA": (lambda: frame().astype("Float64").mask(lambda f: f > 13), r"NaN.*column \d \('"),
    "None among objects": (
        lambda: frame(age=np.array([None] + [1.0] * 59, dtype=object)),
        r"NaN.*row 0, column 2 \('age'\)",
    ),
}
# The same, where columns have names: these are said too.
FRAMES_REFUSED = {
    "text": (lambda: frame(age=["a"] * 60), DataError, "string to float: column 'age'"),
    "numbers as text": (lambda: frame(age=["1.5"] * 60), DataError, "string to float: column 'age'"),
    "text among objects": (
        lambda: frame(age=np.array(["a"] + [1.0] * 59, dtype=object)),
        DataError,
        "string to float: column 'age' of X holds 'a' at row 0",
    ),
    "categories of text": (lambda: frame(age=pd.Categorical(["a", "b"] * 30)), DataError, "column 'age'"),
    "polars text": (lambda: pl.DataFrame({"a": ["x"], "b": [1.0]}), DataError, "string to float: column 'a'"),
    "polars categories": (
        lambda: pl.DataFrame({"a": ["x"], "b": [1.0]}, schema_overrides={"a": pl.Categorical}),
        DataError,
        "string to float: column 'a'",
    ),
    "polars lists": (lambda: pl.DataFrame({"a": [[1.0]]}), DataTypeError, "column 'a'.*List"),
    "dates": (lambda: frame(age=pd.date_range("2020", periods=60)), DataTypeError, "column 'age'.*dates"),
    "durations": (
        lambda: frame(age=pd.to_timedelta(np.arange(60), "s")),
        DataTypeError,
        "column 'age'.*dates",
    ),
    "periods": (lambda: frame(age=pd.period_range("2020", periods=60)), DataTypeError, "column 'age'.*dates"),
    "polars dates": (lambda: pl.DataFrame({"a": [dt.date(2020, 1, 1)]}), DataTypeError, "column 'a'.*dates"),
    "polars times": (lambda: pl.DataFrame({"a": [dt.datetime(2020, 1, 1)]}), DataTypeError, "'a'.*dates"),
    "complex": (lambda: frame(age=1j), DataTypeError, "Complex data not supported: column 'age'"),
    "names of two types": (lambda: pd.DataFrame(X, columns=["a", 1, "b"]), TypeError, "string names"),
    "a name twice": (lambda: pd.DataFrame(X, columns=["a", "a", "b"]), ValueError, "unique column names"),
}


def calls_of(model):
    """Return every method that takes rows, by name."""
    return {name: getattr(model, name) for name in (*methods_of(model), *questions_of(model))}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_table_of_numbers_is_refused_by_every_method(case, fitted):
    make, category, message = REFUSED[case]
    for name in FEW:
        for method, call in calls_of(MAKERS[name]()).items():
            if method not in questions_of(fitted[name]):
                with pytest.raises(category, match=message) as caught:
                    call(make())
                assert len(str(caught.value)) < 400
        for method in questions_of(fitted[name]):
            with pytest.raises(category, match=message):
                getattr(fitted[name], method)(make())


@pytest.mark.parametrize("case", FRAMES_REFUSED)
def test_columns_that_are_no_numbers_are_named(case, fitted_to_frame):
    make, category, message = FRAMES_REFUSED[case]
    for name in FEW:
        with pytest.raises(category, match=message):
            MAKERS[name]().fit(make())
        with pytest.raises(category, match=message):
            MAKERS[name]().partial_fit(make())
        if sorted(map(str, make().columns)) == sorted(NAMES):
            for method in questions_of(fitted_to_frame[name]):
                with pytest.raises(category, match=message):
                    getattr(fitted_to_frame[name], method)(make())


@pytest.mark.parametrize("case", MISSING)
def test_missing_entries_are_refused_where_nothing_integrates_them_out(case, fitted):
    make, message = MISSING[case]
    for name in ("KMeans", "Mixture"):
        for method, call in calls_of(MAKERS[name]()).items():
            if method not in questions_of(fitted[name]):
                with pytest.raises(DataError, match=message):
                    call(make())
        for method in questions_of(fitted[name]):
            with pytest.raises(DataError, match=message):
                getattr(fitted[name], method)(make())


@pytest.mark.parametrize("case", FRAMES_MISSING)
def test_columns_with_missing_entries_are_named_where_they_are_refused(case, fitted_to_frame):
    make, message = FRAMES_MISSING[case]
    for name in ("KMeans", "Mixture"):
        with pytest.raises(DataError, match=message):
            MAKERS[name]().fit(make())
        for method in questions_of(fitted_to_frame[name]):
            with pytest.raises(DataError, match=message):
                getattr(fitted_to_frame[name], method)(make())


@pytest.mark.filterwarnings("ignore::mixcoder.errors.OverfitWarning")
@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateFeatureWarning")
@pytest.mark.parametrize("case", [*MISSING, *(f"frame: {case}" for case in FRAMES_MISSING)])
def test_missing_entries_are_accepted_in_every_form_where_they_are_integrated_out(
    case, fitted, fitted_to_frame
):
    framed = case.startswith("frame: ")
    make = (FRAMES_MISSING[case.removeprefix("frame: ")] if framed else MISSING[case])[0]
    MAKERS["full"](1).fit(make())
    for method in questions_of(fitted["full"]):
        answer = getattr((fitted_to_frame if framed else fitted)["full"], method)(make())
        assert np.isfinite(np.asarray(answer)).all()


@pytest.mark.parametrize("name", FEW)
def test_other_columns_than_those_of_the_fit_are_refused(name, fitted, fitted_to_frame):
    model = fitted[name]
    for method in questions_of(model):
        with pytest.raises(ValueError, match=r"X has 2 features, but \w+ is expecting 3 features"):
            getattr(model, method)(X[:, :2])
        with pytest.raises(ValueError, match=r"X has 4 features, but \w+ is expecting 3 features"):
            getattr(model, method)(torch.ones(2, 4, dtype=torch.float64))
    renamed = frame().rename(columns={"age": "years"})
    for other, message in (
        (renamed, "unseen at fit time:\n- years\n"),
        (frame()[NAMES[::-1]], "same order"),
        (frame()[NAMES[:2]], "seen at fit time, yet now missing:\n- age"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted_to_frame[name].predict(other)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted_to_frame[name].predict(X)
    partial = MAKERS[name]().partial_fit(X)
    with pytest.raises(ValueError, match="X has 2 features"):
        partial.partial_fit(X[:, :2])


@pytest.mark.parametrize("name", MAKERS)
def test_an_unfitted_model_says_so(name):
    model = MAKERS[name]()
    for method in questions_of(model):
        with pytest.raises(NotFittedError, match=r"not fitted yet. Call 'fit'"):
            getattr(model, method)(X)
    for method in ("decode", "inverse_transform"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(model, method)([0])
    for attribute in ("weights_", "means_", "covariances_", "cluster_centers_", "n_effective_components_"):
        assert not hasattr(model, attribute)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.save("nowhere.mixcoder")


# Weights, codes, parameters


@pytest.mark.parametrize(
    ("weights", "category", "message"),
    [
        (np.where(np.arange(60) == 4, np.nan, 1.0), DataError, r"sample_weight contains NaN.*\[4\]"),
        (
            np.where(np.arange(60) == 4, np.inf, 1.0),
            DataError,
            r"sample_weight contains NaN or infinity.*\[4\]",
        ),
        (np.where(np.arange(60) == 4, -1.0, 1.0), DataError, "Negative values.*sample_weight.*row 4"),
        (np.zeros(60), DataError, "Sample weights must not all be zero"),
        (np.ones(59), DataError, r"sample_weight.shape == \(59,\), expected \(60,\)"),
        (np.ones((60, 1)), DataError, "must be 1D array or scalar, got 2D"),
        (["a"] * 60, DataTypeError, "sample_weight must be numbers"),
        (np.ones(60) + 1j, DataTypeError, "sample_weight must be numbers"),
        (np.array(["2020-01-01"] * 60, dtype="M8[D]"), DataTypeError, "sample_weight must be numbers"),
        (torch.full((60,), torch.nan), DataError, "sample_weight contains NaN"),
        (np.nan, DataError, "sample_weight contains NaN"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FEW)
def test_weights_that_are_none_are_refused(name, weights, category, message, fitted):
    for method in ("fit", "partial_fit", "fit_predict"):
        with pytest.raises(category, match=message):
            getattr(MAKERS[name](), method)(X, sample_weight=weights)
    with pytest.raises(category, match=message):
        fitted[name].score(X, sample_weight=weights)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
@pytest.mark.parametrize("name", ["KMeans", "full", "Mixture"])
def test_the_scale_of_weights_means_nothing(name, scale):
    weights = np.random.default_rng(1).uniform(0.5, 2.0, 60)
    plain = MAKERS[name]().fit(X, sample_weight=weights)
    scaled = MAKERS[name]().fit(X, sample_weight=scale * weights)
    assert (plain.predict(X) == scaled.predict(X)).all()
    centres = "cluster_centers_" if name == "KMeans" else "weights_"
    np.testing.assert_allclose(getattr(scaled, centres), getattr(plain, centres), rtol=1e-8)
    if name == "KMeans":
        assert scaled.inertia_ == pytest.approx(scale * plain.inertia_)


@pytest.mark.parametrize(
    ("code", "category", "message"),
    [
        ([[0.5, 0.5, np.nan]], DataError, r"code contains NaN or infinity, first at index \[0, 2\]"),
        ([[np.inf, 0.0, 0.0]], DataError, "code contains NaN or infinity"),
        ([[0.5, 0.5]], DataError, r"code has shape \(1, 2\), expected \(n_samples, 3\)"),
        (np.ones((2, 2, 3)), DataError, r"code has shape \(2, 2, 3\)"),
        ([[1.0, 0, 0], [0.5, 0.5, 0.5]], DataError, "sum to one, but row 1 of code has a sum of 1.5"),
        ([[-1.0, 1.0, 1.0]], DataError, "row 0 of code has a sum of 1 and a smallest entry of -1"),
        ([0, 3], DataError, r"component numbers, whole and in 0\.\.2"),
        ([-1], DataError, "component numbers"),
        ([0.5], DataError, "component numbers"),
        (["a"], DataTypeError, "code must be numbers"),
        ([1j], DataTypeError, "code must be numbers"),
        (None, DataTypeError, "code must be numbers"),
        (torch.tensor([torch.nan]), DataError, "code contains NaN"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["full", "hard", "KMeans"])
def test_what_is_no_code_is_refused(name, code, category, message, fitted):
    with pytest.raises(category, match=message):
        fitted[name].decode(code)


BAD_COUNTS = [0, -1, 2.5, "a", None, np.nan, True, np.array([3])]
BAD_REALS = [-1.0, np.nan, "a", None, True, 1j]
BAD_PARAMETERS = {
    KMeans: {
        "n_clusters": BAD_COUNTS,
        "max_iter": BAD_COUNTS,
        "n_init": BAD_COUNTS,
        "tol": BAD_REALS,
        "init": ["kmeans", 3, None],
        "algorithm": ["auto", "full", None, 1],
        "random_state": ["a", 1.5, -1],
        "copy_x": ["yes", None],
        "on_interrupt": ["stop", None, True],
        "verbose": [-1, "a", None],
    },
    GaussianMixture: {
        "n_components": BAD_COUNTS,
        "max_iter": [*BAD_COUNTS[1:]],
        "n_init": BAD_COUNTS,
        "tol": BAD_REALS,
        "reg_covar": [value for value in BAD_REALS if value is not None] + [np.inf],
        "temperature": [*BAD_REALS, np.inf],
        "covariance_type": ["round", None, 1],
        "init_params": ["k-means", None, 3],
        "acceleration": ["fast", None, True],
        "warm_start": ["yes", None],
        "step_exponent": [0.5, 1.1, None, True],
        "verbose_interval": BAD_COUNTS,
        "weights_init": ["a", 3],
    },
    Mixture: {
        "family": [None, 3, Poisson],
        "encoder": ["argmax", 1.0, Argmax],
        "init": ["kmeans", None],
        "n_components": BAD_COUNTS,
        "temperature": [*BAD_REALS, np.inf],
    },
}


@pytest.mark.parametrize(
    ("estimator", "parameter", "value"),
    [
        (estimator, parameter, value)
        for estimator, parameters in BAD_PARAMETERS.items()
        for parameter, values in parameters.items()
        for value in values
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_parameters_are_checked_before_rows_are_read(estimator, parameter, value):
    for method in ("fit", "partial_fit"):
        model = estimator(**{parameter: value})
        with pytest.raises(
            InvalidParameterError, match=f"The '{parameter}' parameter of {estimator.__name__} must be"
        ):
            getattr(model, method)("no rows at all")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Mixture("gausian_full"), "family='gausian_full' is not one of .*'gaussian_full'"),
        (Mixture(temperature=0.5, encoder=Tempered(0.5)), "either encoder=.* or temperature=0.5, not both"),
        (Mixture(n_components=2, init=[0, 1]), r"shape \(60,\) or responsibilities .* got shape \(2,\)"),
        (Mixture(n_components=2, init=np.full(60, 2)), r"whole numbers in 0\.\.1"),
        (Mixture(n_components=2, init=np.zeros((60, 2))), "some positive in each row"),
        (Mixture(n_components=2, init=np.full((60, 2), np.nan)), "start contains NaN"),
        (Mixture(n_components=2, init=lambda X, k, r: ["a"] * 60), "start must be numbers"),
        (KMeans(2, init=X[:3]), r"initial centers \(3, 3\) does not match the number of clusters 2"),
        (KMeans(2, init=X[:2, :2]), r"initial centers \(2, 2\) does not match the number of features .* 3"),
        (KMeans(2, init=[[np.nan] * 3] * 2), "initial centers contains NaN"),
        (KMeans(2, init=[["a"] * 3] * 2), "initial centers must be numbers"),
        (GaussianMixture(2, weights_init=[1.0]), r"weights_init.*shape.*\(2,\)"),
        (GaussianMixture(2, weights_init=[0.5, 0.6]), "weights_init.*sum"),
        (GaussianMixture(2, weights_init=[-0.5, 1.5]), "weights_init.*range"),
        (GaussianMixture(2, means_init=X[:3]), r"means_init.*shape.*\(2, 3\)"),
        (GaussianMixture(2, means_init=[[np.nan] * 3] * 2), "means_init.*NaN"),
        (GaussianMixture(2, precisions_init=np.eye(3)), r"shape.*\(2, 3, 3\)"),
        (GaussianMixture(2, precisions_init=-np.stack([np.eye(3)] * 2)), "positive"),
        (GaussianMixture(2, covariance_type="diag", precisions_init=np.zeros((2, 3))), "positive"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_parameters_that_do_not_fit_the_rows_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X)


# Too few rows


@pytest.mark.parametrize("name", MAKERS)
def test_fewer_rows_than_components_are_refused(name):
    for method in methods_of(MAKERS[name]()):
        with pytest.raises(DataError, match=r"n_samples ?= ?2\b"):
            getattr(MAKERS[name](), method)(X[:2])


def test_one_row_is_no_mixture_but_one_cluster():
    with pytest.raises(ValueError, match=r"1 sample\(s\).*a minimum of 2 is required by GaussianMixture"):
        GaussianMixture().fit(X[:1])
    with pytest.raises(ValueError, match="a minimum of 2 is required by GaussianMixture"):
        GaussianMixture().fit(torch.tensor(X[:1]))
    with pytest.warns(OverfitWarning):
        assert KMeans(1).fit(X[:1]).inertia_ == 0.0


@pytest.mark.parametrize("name", MAKERS)
def test_one_row_can_be_asked_about(name, fitted):
    model = fitted[name]
    for question, answer in answers_of(model, X).items():
        one = np.asarray(getattr(model, question)(X[4:5]), dtype=float)
        assert np.isfinite(one).all()
        if answer.ndim:
            np.testing.assert_allclose(one, answer[4:5], rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("name", WITHOUT_PRIOR)
def test_as_many_components_as_rows_repeat_the_data(name):
    rows = X[::10]
    with pytest.warns(OverfitWarning, match=r"parameters for 6 rows of 3 features"):
        model = MAKERS[name](6).fit(rows)
    assert_sound(model, rows)
    assert model.n_effective_components_ == 6
    np.testing.assert_allclose(model.reconstruct(rows), rows, rtol=1e-6)


# Degenerate rows


@pytest.mark.parametrize("value", [0.0, 7.0, -1e12, 1e-300])
@pytest.mark.parametrize("name", MAKERS)
def test_a_constant_column_is_named_and_does_no_harm(name, value):
    rows = np.column_stack([X, np.full(60, value)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        with pytest.warns(DegenerateFeatureWarning, match=r"Constant: column 3\."):
            model = MAKERS[name]().fit(rows)
        with pytest.warns(DegenerateFeatureWarning, match=r"Constant: column 3 \('same'\)\."):
            MAKERS[name]().fit(pd.DataFrame(rows, columns=[*NAMES, "same"]))
    assert_sound(model, rows)
    assert adjusted_rand_score(LABELS, model.predict(rows)) == 1.0


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateFeatureWarning")
@pytest.mark.filterwarnings("ignore::mixcoder.errors.OverfitWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_distinct", [1, 2])
@pytest.mark.parametrize("name", WITHOUT_PRIOR)
def test_components_that_no_row_needs_weigh_nothing(name, n_distinct, dtype):
    rows = np.repeat([[3.3, 0.0, -2.0], [1.0, 4.0, 5.0]][:n_distinct], 12, axis=0).astype(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = MAKERS[name](4).fit(rows)
    assert any("not needed: their weight is zero" in str(warning.message) for warning in caught)
    if name == "KMeans":
        told = f"Number of distinct clusters ({n_distinct}) found smaller than n_clusters (4)"
        assert any(told in str(warning.message) for warning in caught)
    assert model.n_effective_components_ == n_distinct
    np.testing.assert_allclose(
        np.sort(model.weights_)[::-1], [1 / n_distinct] * n_distinct + [0.0] * (4 - n_distinct)
    )
    assert_sound(model, rows)
    np.testing.assert_allclose(model.reconstruct(rows), rows, atol=1e-5)


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateFeatureWarning")
@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("how", ["auto", "kmeans", "k-means++", "random", "random_from_data"])
def test_no_start_invents_components_for_identical_rows(how):
    rows = np.full((30, 2), 4.0)
    model = GaussianMixture(3, covariance_type="diag", init_params=how, random_state=0).fit(rows)
    assert sorted(model.weights_) == [0.0, 0.0, 1.0]
    np.testing.assert_allclose(model.reconstruct(rows), rows)


@pytest.mark.parametrize("name", WITHOUT_PRIOR)
def test_one_row_far_away_is_reported(name):
    rows = with_value(1e12)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = MAKERS[name]().fit(rows)
    assert {warning.category for warning in caught} & {DegenerateComponentWarning, ConvergenceWarning}
    assert_sound(model, rows)


def test_a_component_that_collapses_is_named():
    rows = np.vstack([X, np.tile(X[0] + 50.0, (5, 1))])
    with pytest.warns(
        DegenerateComponentWarning, match=r"Components \[\d\] collapsed onto the variance floor"
    ):
        model = GaussianMixture(2, random_state=0).fit(rows)
    assert_sound(model, rows)


# Scale and place


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30, 2.0**-500, 2.0**400])
@pytest.mark.parametrize("name", MAKERS)
def test_a_fit_does_not_depend_on_the_unit(name, scale, fitted):
    model, plain = MAKERS[name]().fit(scale * X), fitted[name]
    assert (model.predict(scale * X) == plain.predict(X)).all()
    np.testing.assert_allclose(model.weights_, plain.weights_, rtol=1e-10)
    np.testing.assert_allclose(model.decode([0, 1, 2]), scale * plain.decode([0, 1, 2]), rtol=1e-10)
    if name == "KMeans":
        assert model.inertia_ == pytest.approx(scale**2 * plain.inertia_, rel=1e-10)
    else:
        shift = 3 * np.log(scale) * (1 if name in WITHOUT_PRIOR else len(X))  # its bound is that of all rows
        assert model.lower_bound_ + shift == pytest.approx(plain.lower_bound_, rel=1e-10)
    if hasattr(plain, "covariances_") and scale**2 > 0:
        np.testing.assert_allclose(model.covariances_ / scale**2, plain.covariances_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "tied_diag", "hard", "Mixture"])
def test_a_fit_does_not_depend_on_the_units_of_the_columns(name, fitted):
    scales = np.array([1e-20, 1.0, 3e15])
    model, plain = MAKERS[name]().fit(scales * X), fitted[name]
    np.testing.assert_allclose(model.weights_, plain.weights_, rtol=1e-9)
    np.testing.assert_allclose(model.decode([0, 1, 2]), scales * plain.decode([0, 1, 2]), rtol=1e-9)
    assert model.lower_bound_ + np.log(scales).sum() == pytest.approx(plain.lower_bound_, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-300, 1e-309])
@pytest.mark.parametrize("name", MAKERS)
def test_rows_whose_squares_underflow_are_fitted_with_a_warning(name, scale):
    with pytest.warns(
        PrecisionWarning, match="Column 0 has a spread near .* whose square underflows float64"
    ):
        model = MAKERS[name]().fit(scale * X)
    assert adjusted_rand_score(LABELS, model.predict(scale * X)) == 1.0
    assert_sound(model, scale * X, digits=False)


@pytest.mark.parametrize("name", MAKERS)
def test_rows_whose_squares_overflow_are_refused_with_advice(name):
    with pytest.raises(
        DataError, match=r"^Column \d has a spread near .*e\+20\d, whose square overflows.*rescale"
    ):
        MAKERS[name]().fit(1e200 * X)
    named = pd.DataFrame(1e200 * X, columns=NAMES)
    with pytest.raises(DataError, match=r"^Column \d \('\w+'\) has a spread"):
        MAKERS[name]().fit(named)


@pytest.mark.parametrize("name", MAKERS)
def test_single_precision_is_scaled_as_far_as_its_squares_reach(name):
    for scale in (1e15, 1e-15):
        model = MAKERS[name]().fit((scale * X).astype(np.float32))
        assert adjusted_rand_score(LABELS, model.predict((scale * X).astype(np.float32))) == 1.0
    far = (1e30 * X).astype(np.float32)
    if name == "KMeans":
        assert adjusted_rand_score(LABELS, MAKERS[name]().fit(far).labels_) == 1.0
    else:
        with pytest.raises(DataError, match="whose square overflows float32: rescale"):
            MAKERS[name]().fit(far)


@pytest.mark.parametrize("name", MAKERS)
def test_a_fit_does_not_depend_on_the_place(name, fitted):
    moved, plain = X + 1e8, fitted[name]
    rounded = moved - 1e8  # the digits that survived the move
    model, expected = MAKERS[name]().fit(moved), MAKERS[name]().fit(rounded)
    assert (model.predict(moved) == plain.predict(X)).all()
    np.testing.assert_allclose(model.weights_, expected.weights_, rtol=1e-7)
    np.testing.assert_allclose(model.decode([0, 1, 2]) - 1e8, expected.decode([0, 1, 2]), atol=1e-7)
    if hasattr(plain, "covariances_"):
        np.testing.assert_allclose(model.covariances_, expected.covariances_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", MAKERS)
def test_single_precision_at_ten_thousand_deviations_keeps_its_digits(name):
    spread = X.std(0)
    rows = (X / spread + 1e4).astype(np.float32)
    model, exact = MAKERS[name]().fit(rows), MAKERS[name]().fit(rows.astype(np.float64))
    assert model.decode([0]).dtype == np.float32
    assert (model.predict(rows) == exact.predict(rows.astype(np.float64))).all()
    np.testing.assert_allclose(model.weights_, exact.weights_, rtol=1e-5)
    np.testing.assert_allclose(model.decode([0, 1, 2]), exact.decode([0, 1, 2]), rtol=2e-7)
    if hasattr(exact, "covariances_"):
        scale = np.abs(exact.covariances_).max()
        np.testing.assert_allclose(model.covariances_, exact.covariances_, rtol=1e-5, atol=1e-5 * scale)
    if hasattr(exact, "score_samples"):
        np.testing.assert_allclose(
            model.score_samples(rows), exact.score_samples(rows.astype(np.float64)), rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_two_points_far_apart_have_the_variance_that_is_added(covariance_type):
    """The example of scikit-learn's issue 30382, whose answer there is 112.1 or 60.1."""
    rows = np.array([[0.0], [9999.0]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverfitWarning)
        model = GaussianMixture(2, covariance_type=covariance_type, reg_covar=0.1, random_state=0).fit(rows)
    np.testing.assert_allclose(np.ravel(model.covariances_), 0.1, rtol=1e-6)
    np.testing.assert_allclose(np.sort(np.ravel(model.means_)), [0.0, 9999.0])


@pytest.mark.parametrize("name", MAKERS)
def test_single_precision_without_digits_left_is_told(name):
    rows = (X + 1e8).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        with pytest.warns(PrecisionWarning, match="column 0, column 1, column 2. float32 has no digits left"):
            model = MAKERS[name]().fit(rows)
    assert_sound(model, rows)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", MAKERS)
def test_rows_at_any_distance_can_be_asked_about(name, dtype, fitted):
    model = fitted[name] if dtype == np.float64 else MAKERS[name]().fit(X.astype(dtype))
    largest = float(np.finfo(dtype).max)
    for distance in (1e3, 1e10, 1e19, 1e30, 1e80, 1e160, 1e300):
        if distance > largest / 100:
            continue
        rows = (distance * np.array([[1.0, 1.0, 1.0], [-1.0, 2.0, 0.5], [1e-5, 0.0, -3.0]])).astype(dtype)
        for question in questions_of(model):
            if question in ("distortion", "score", "bic", "aic", "icl"):
                continue  # sums of squares, or of their logarithms
            answer = np.asarray(getattr(model, question)(rows), dtype=float)
            if question == "score_samples":
                answer = np.maximum(answer, -largest)  # minus infinity is right where squares overflow
            assert np.isfinite(answer).all(), (question, distance)


@pytest.mark.parametrize(
    "rows",
    [
        np.full((9, 2), 2**60) + np.arange(18).reshape(9, 2) * 2**50,
        torch.full((9, 2), 2**60) + torch.arange(18).reshape(9, 2) * 2**50,
        (np.full((9, 2), 2**60) + np.arange(18).reshape(9, 2) * 2**50).tolist(),
        np.full((9, 2), 2**63, dtype=np.uint64) + np.arange(18, dtype=np.uint64).reshape(9, 2) * 2**50,
        pd.DataFrame(np.arange(18).reshape(9, 2) * 2**52, columns=["a", "b"]),
        pl.DataFrame(np.arange(18).reshape(9, 2) * 2**52, schema=["a", "b"]),
        np.array([[2**70 + i * 2**60] for i in range(9)], dtype=object),
    ],
    ids=["numpy", "torch", "list", "unsigned", "pandas", "polars", "objects"],
)
def test_integers_that_float64_rounds_are_told(rows):
    with pytest.warns(PrecisionWarning, match=r"integers up to \d+, beyond 2\*\*53.*Subtract an offset"):
        model = KMeans(2, random_state=0).fit(rows)
    assert np.isfinite(np.asarray(model.cluster_centers_, dtype=float)).all()


# The domain of a family


@pytest.mark.parametrize(
    ("family", "value", "message"),
    [
        (Poisson(), 1.5, "holds 1.5, but Poisson features are counts"),
        (Poisson(), -1.0, "holds -1, but Poisson features are counts"),
        (Bernoulli(), 2.0, "holds 2, but Bernoulli features are 0 or 1"),
    ],
    ids=str,
)
def test_a_value_outside_the_domain_is_found_in_a_long_table(family, value, message):
    rows = np.zeros((40_000, 2))
    rows[::2] = 1.0
    model = Mixture(family, 2, random_state=0, max_iter=5, tol=1.0).fit(rows[:100])
    rows[33_333, 1] = value
    found = f"Row 33333, column 1 {re.escape(message)}"
    for call in (model.fit, model.partial_fit, model.predict, model.score_samples):
        with pytest.raises(DataError, match=found):
            call(rows)
    with pytest.raises(DataError, match=r"Row 33333, column 1 \('b'\) holds"):
        Mixture(family, 2).fit(pd.DataFrame(rows, columns=["a", "b"]))


def test_a_start_that_explains_no_row_is_refused():
    with pytest.raises(FitError, match=r"no component explains some row.*means_init"):
        GaussianMixture(
            1, weights_init=[1.0], means_init=[[1e200] * 3], precisions_init=np.eye(3)[None] * 1e300
        ).fit(X)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "tied_diag"])
@pytest.mark.parametrize("n_components", [1, 3])
def test_columns_without_news_collapse_no_component(covariance, n_components):
    """A constant column, or one that copies another, is flat for everybody: nothing is told of components."""
    constant, copied = np.column_stack([X, np.full(len(X), 7.0)]), np.column_stack([X, 2 * X[:, 0]])
    for rows in (constant, copied):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = GaussianMixture(n_components, covariance_type=covariance, random_state=0).fit(rows)
        assert not [w for w in caught if issubclass(w.category, DegenerateComponentWarning)]
        assert_sound(model, rows)


def test_a_start_that_tells_no_component_from_another_is_refused():
    with pytest.raises(ValueError, match="same share in every component"):
        GaussianMixture(3, init_params=np.ones((len(X), 3))).fit(X)
