"""Family and embedding together: the contract, the trace, codes in and out, and rows without a code."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks

import mixcoder
from mixcoder import EmbeddedMixture, GaussianMixture
from mixcoder.components import PPCA, GaussianTiedSpherical
from mixcoder.errors import DataError, MissingCodeWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore::mixcoder.errors.OverfitWarning"),
    pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning"),
    pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateFeatureWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@parametrize_with_checks(
    [
        EmbeddedMixture("gaussian_diagonal", 2, 1, max_iter=5),
        EmbeddedMixture("gaussian_spherical", absorber=0.5, alpha=1.0, max_iter=5),
        EmbeddedMixture("gaussian_spherical", 2, kernel="sphere", max_iter=5),
    ]
)
def test_scikit_learn_finds_nothing_to_object_to(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def rows():
    """Six overlapping balls in four dimensions."""
    generator = np.random.default_rng(0)
    centres = 1.5 * generator.standard_normal((6, 4))
    return np.repeat(centres, 40, axis=0) + generator.standard_normal((240, 4))


SETTINGS = {
    "prior": {},
    "absorber": {"prior": 0.0, "absorber": 1.0, "alpha": 1.0},
    "constant absorber": {"absorber": 0.3},
    "narrow": {"beta": 3.0, "prior": 0.1},
    "tied": {"family": GaussianTiedSpherical()},
    "ppca": {"family": PPCA(1)},
    "full": {"family": "gaussian_full", "n_components": 3},
    "one axis": {"n_axes": 1},
    "distance": {"kernel": "distance"},
    "sphere": {"kernel": "sphere", "n_axes": 3},
}
each = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def fitted(rows, **settings):
    given = {
        "family": "gaussian_spherical",
        "n_components": 6,
        "random_state": 0,
        "tol": 1e-5,
        "max_iter": 60,
    }
    return EmbeddedMixture(**{**given, **settings}).fit(rows)


@each
def test_the_trace_of_the_exact_objective_never_falls(rows, settings):
    model = fitted(rows, **settings)
    bounds = model.history_["bound"]
    assert len(bounds) > 3
    assert all(after >= before for before, after in itertools.pairwise(bounds))
    assert bounds[-1] - bounds[0] > 1e-3
    assert np.isfinite(model.embedding_).all()
    assert model.code_exists_.all()


@pytest.mark.parametrize(
    "settings", [{}, {"prior": 0.0, "absorber": 1.0, "alpha": 1.0}, {"kernel": "sphere"}]
)
def test_the_trace_is_the_objective_of_the_rows_less_the_prior_of_the_anchors(rows, settings):
    """Recomputed from the definition; a row may have found a better place than the one that the fit followed."""
    model = fitted(rows, tol=1e-9, max_iter=200, **settings)
    values = model.objective(rows)
    again = values.mean() - model.prior * (model.anchors_**2).sum() / len(rows)
    assert again == pytest.approx(model.lower_bound_, abs=0.02)
    v, w = model.embedding_, model.anchors_
    distance = ((v[:, None] - w) ** 2).sum(2)
    far = model.absorber * np.exp(model.alpha * (v**2).sum(1))
    near = np.exp(-model.beta * distance)
    h = torch.stack(
        [
            torch.distributions.MultivariateNormal(
                torch.tensor(m), s * torch.eye(4, dtype=torch.float64)
            ).log_prob(torch.tensor(rows))
            for m, s in zip(*_balls(model), strict=True)
        ],
        1,
    ).numpy()
    prior = 0.0 if model.kernel == "sphere" else model.prior
    by_hand = np.log((near * np.exp(h)).sum(1) / (far + near.sum(1))) - prior * (v**2).sum(1)
    np.testing.assert_allclose(values, by_hand, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.absorber_share_, far / (far + near.sum(1)), atol=1e-9)


def _balls(model):
    frame, params = model.model_.frame, model.model_.params
    scale = frame.scale
    assert float(scale.max() / scale.min()) == 1
    return model.model_.prototypes().numpy(), (params.variances / scale[0] ** 2).numpy()


@each
def test_codes_are_local_maxima_and_rows_come_back_from_them(rows, settings):
    model = fitted(rows, **settings)
    codes = model.encode(rows)
    assert codes.shape == (240, model.n_axes)
    np.testing.assert_array_equal(codes, model.embedding_)
    np.testing.assert_array_equal(model.transform(rows), codes)
    decoded = model.decode(codes)
    np.testing.assert_allclose(decoded, model.reconstruct(rows))
    assert model.distortion(rows) == pytest.approx(((rows - decoded) ** 2).sum(1).mean())
    assert model.distortion(rows) < ((rows - rows.mean(0)) ** 2).sum(1).mean()
    assert 0 < model.rate(rows) <= np.log2(6) + 3
    shares = model.predict_proba(rows)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_array_equal(shares.argmax(1), model.predict(rows))
    picture = model.embedding_map(rows)
    np.testing.assert_array_equal(picture.codes, codes)
    np.testing.assert_array_equal(picture.anchors, model.anchors_)
    np.testing.assert_allclose(picture.absorber_share, model.absorber_share_)


def test_scores_are_those_of_a_normalised_mixture():
    x = np.linspace(-30, 40, 20001)[:, None]
    data = np.concatenate([np.random.default_rng(1).normal(m, 1, 50) for m in (0, 4, 9)])[:, None]
    model = EmbeddedMixture("gaussian_spherical", 3, 1, random_state=0).fit(data)
    assert np.trapezoid(np.exp(model.score_samples(x)), x[:, 0]) == pytest.approx(1, abs=1e-6)
    assert model.score(data) == pytest.approx(model.score_samples(data).mean())
    assert model.weights_.sum() == pytest.approx(1)
    # Its weights are no maximum of that density, so that it lies below that of a fitted mixture, and not far.
    best = GaussianMixture(3, covariance_type="spherical", random_state=0, tol=1e-8).fit(data).score(data)
    assert best - 0.1 < model.score(data) <= best + 1e-6


def test_separated_groups_are_recovered_and_lie_at_their_anchors():
    generator = np.random.default_rng(2)
    truth = np.repeat(np.arange(4), 50)
    data = 8 * generator.standard_normal((4, 5))[truth] + generator.standard_normal((200, 5))
    model = EmbeddedMixture("gaussian_spherical", 4, random_state=0).fit(data)
    labels = model.predict(data)
    assert all(len(set(labels[truth == k])) == 1 for k in range(4))
    assert len(set(labels)) == 4
    distance = ((model.embedding_[:, None] - model.anchors_) ** 2).sum(2)
    np.testing.assert_array_equal(distance.argmin(1), labels)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prior": 0.1},
        {"prior": 1.0, "beta": 3.0},
        {"prior": 0.0, "absorber": 1.0, "alpha": 1.0},
        {"kernel": "distance"},
        {"kernel": "sphere", "n_axes": 3},
        {"family": "gaussian_tied", "prior": 0.1},
    ],
)
def test_weights_of_rows_are_rows_that_repeat(rows, settings):
    some = rows[::3]
    weights = 1 + (np.arange(len(some)) % 3)
    one = fitted(np.repeat(some, weights, axis=0), max_iter=10, **settings)
    given = {"family": "gaussian_spherical", **settings}
    other = EmbeddedMixture(n_components=6, random_state=0, tol=1e-5, max_iter=10, **given).fit(
        some, sample_weight=weights
    )
    assert one.lower_bound_ == pytest.approx(other.lower_bound_, abs=1e-8)
    np.testing.assert_allclose(one.history_["bound"][:4], other.history_["bound"][:4], atol=1e-8)


# Rows without a code


def test_rows_that_are_pushed_away_are_named_and_everything_stays_finite(rows):
    with pytest.warns(
        MissingCodeWarning, match="outside the relative interior of the hull.*absorber > 0 or prior > 0"
    ):
        model = fitted(rows, prior=0.0, max_iter=20)
    bounds = model.history_["bound"]
    assert all(after >= before for before, after in itertools.pairwise(bounds))
    assert not model.code_exists_.all()
    assert np.isfinite(model.embedding_).all()
    assert np.isfinite(model.anchors_).all()
    assert np.isfinite(model.decode(model.embedding_)).all()
    # The reason: the best component of such a row sits at a vertex, and the objective goes on rising outwards.
    assert np.isfinite(model.objective(rows)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"absorber": -1.0}, "absorber"),
        ({"prior": -1.0}, "prior"),
        ({"beta": 0.0}, "beta"),
        ({"absorber": 1.0, "alpha": -1.0}, "alpha \\+ beta > 0"),
        ({"kernel": "distance", "absorber": 1.0, "alpha": -1.0}, "alpha >= 0"),
        ({"kernel": "round"}, "kernel"),
        ({"prior": 0.0, "n_axes": 6}, "n_axes <= n_components - 1 = 5"),
        ({"prior": 0.0, "anchors_init": np.ones((6, 2))}, "span all 2 axes, but the 6 given span 0"),
        ({"anchors_init": np.ones((5, 2))}, "expected \\(6, 2\\)"),
        ({"anchors_init": np.full((6, 2), np.nan)}, "anchors_init contains NaN"),
        ({"family": "gaussian"}, "is not one of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(rows, **settings)


@pytest.mark.parametrize(
    "settings", [{}, {"prior": 0.0, "absorber": 1.0}, {"kernel": "sphere"}, {"kernel": "distance"}]
)
def test_anchors_that_coincide_are_refused_by_number(rows, settings):
    zero = np.zeros((6, 2))
    with pytest.raises(DataError, match=r"coincide \(0 and 1, 0 and 2, .*, \.\.\.: .*leave out anchors_init"):
        fitted(rows, anchors_init=zero, max_iter=5, **settings)
    near = np.random.default_rng(3).standard_normal((6, 2))
    near[4] = near[1] + 1e-6
    with pytest.raises(DataError, match=r"coincide \(1 and 4: less than 0\.01 apart"):
        fitted(rows, anchors_init=near, max_iter=5, **settings)


@pytest.mark.parametrize("beta", [0.25, 1.0, 100.0])
def test_anchors_in_a_small_heap_leave_it_where_those_in_one_place_would_not(beta):
    """What is refused is a saddle: all anchors in one place are stationary, with every code at the origin."""
    X, heap = load_iris().data, np.random.default_rng(0).standard_normal((3, 2)) / np.sqrt(beta)
    with pytest.raises(DataError, match="0 and 1, 0 and 2, 1 and 2"):
        EmbeddedMixture(anchors_init=1e-4 * heap, beta=beta, random_state=0).fit(X)
    free = EmbeddedMixture(beta=beta, random_state=0).fit(X)
    model = EmbeddedMixture(anchors_init=0.02 * heap, beta=beta, random_state=0).fit(X)
    assert np.abs(model.embedding_).max() > 0.1 * np.abs(free.embedding_).max()
    assert model.lower_bound_ > free.lower_bound_ - 0.1


def test_a_failed_fit_leaves_the_estimator_as_it_was(rows):
    model = fitted(rows, max_iter=5)
    before = model.encode(rows)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((20, 4), np.nan))
    np.testing.assert_array_equal(model.encode(rows), before)
    with pytest.raises(ValueError, match="points of the map"):
        model.decode(np.zeros((3, 5)))


def test_fewer_rows_than_components_are_refused():
    with pytest.raises(ValueError, match="n_samples >= n_components"):
        EmbeddedMixture("gaussian_spherical", 6).fit(np.random.default_rng(0).standard_normal((5, 2)))


# Out and back


@pytest.mark.parametrize(
    "settings", [{}, {"prior": 0.0, "absorber": 1.0}, {"family": PPCA(1), "kernel": "distance"}]
)
def test_a_saved_model_gives_the_same_answers(rows, settings, tmp_path):
    model = fitted(rows, max_iter=5, **settings)
    digest = model.save(tmp_path / "model.mixcoder")
    same = mixcoder.load(tmp_path / "model.mixcoder", expected_sha256=digest)
    np.testing.assert_array_equal(same.encode(rows), model.encode(rows))
    np.testing.assert_array_equal(same.decode(same.embedding_), model.decode(model.embedding_))
    np.testing.assert_array_equal(same.code_exists_, model.code_exists_)
    np.testing.assert_array_equal(same.absorber_share_, model.absorber_share_)
    np.testing.assert_array_equal(same.anchors_, model.anchors_)
    assert same.get_params().keys() == model.get_params().keys()
    assert same.history_ == model.history_


def test_single_precision_stays_single_and_tensors_stay_tensors(rows):
    model = fitted(rows.astype(np.float32), max_iter=10)
    assert model.embedding_.dtype == model.anchors_.dtype == np.float32
    assert model.encode(rows.astype(np.float32)).dtype == np.float32
    assert model.decode(model.embedding_).dtype == np.float32
    bounds = model.history_["bound"]
    assert all(after >= before for before, after in itertools.pairwise(bounds))
    tensors = fitted(torch.tensor(rows), max_iter=5)
    assert isinstance(tensors.embedding_, torch.Tensor)
    assert isinstance(tensors.encode(torch.tensor(rows)), torch.Tensor)


def test_rows_in_files_give_the_same_model(rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    here, there = fitted(rows, max_iter=8), fitted(mixcoder.open_blocks(tmp_path / "rows.npy"), max_iter=8)
    np.testing.assert_array_equal(there.embedding_, here.embedding_)
    np.testing.assert_array_equal(
        there.predict(mixcoder.open_blocks(tmp_path / "rows.npy")), here.predict(rows)
    )


def test_a_row_far_from_all_others_gets_a_finite_place(rows):
    model = fitted(rows, max_iter=8)
    for far in (1e6, 1e150):
        codes = model.encode(np.full((1, 4), far))
        assert np.isfinite(codes).all()
        assert np.isfinite(model.decode(codes)).all()


def test_one_seed_gives_one_model(rows):
    one, other = fitted(rows, max_iter=8), fitted(rows, max_iter=8)
    np.testing.assert_array_equal(one.embedding_, other.embedding_)


def test_iris_needs_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = EmbeddedMixture(n_components=3, random_state=0, max_iter=200).fit(load_iris().data)
    assert model.converged_


@pytest.mark.parametrize("family", ["gaussian_full", "gaussian_tied"])
@pytest.mark.parametrize("n_axes", [1, 2])
def test_weights_are_repeated_rows_also_where_the_first_anchors_see_some_rows_only(family, n_axes):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(5, 3))[rng.integers(0, 5, 1500)] * 4 + rng.normal(size=(1500, 3))
    counts = rng.integers(0, 4, 1500)
    model = EmbeddedMixture(family, 4, n_axes, random_state=0)
    weighted = model.fit(rows, sample_weight=counts).objective(rows)
    repeated = model.fit(np.repeat(rows, counts, axis=0)).objective(rows)
    np.testing.assert_allclose(weighted, repeated, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kernel", ["squared", "distance", "sphere"])
@pytest.mark.parametrize("size", [1e30, 1e200, 1e300])
def test_anchors_too_far_apart_for_any_digit_are_refused_at_once(kernel, size):
    X = load_iris().data
    far = size * np.random.default_rng(0).standard_normal((3, 2))
    model = EmbeddedMixture(n_components=3, kernel=kernel, anchors_init=far, random_state=0)
    with pytest.raises(ValueError, match=r"anchors within 1e\+08 nats.*Divide the anchors"):
        model.fit(X)
    with pytest.raises(ValueError, match="make beta smaller"):
        EmbeddedMixture(n_components=3, kernel=kernel, beta=size, random_state=0).fit(X)
