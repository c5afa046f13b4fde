"""What is drawn equals the data; a display draws on given axes, on new ones and again; the wrong model is refused."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.stats import multivariate_normal, multivariate_t
from sklearn.base import clone
from sklearn.cluster import KMeans as TheirKMeans
from sklearn.exceptions import NotFittedError

import mixcoder
from mixcoder import components, plot
from mixcoder.encoders import Tempered
from mixcoder.plot._planes import PlanarMixture, mass_levels, moments, principal, project
from mixcoder.selection import Candidate, Selection

RNG = np.random.default_rng(0)
CLOUDS = np.concatenate([RNG.normal(size=(60, 4)) * s + m for s, m in ((1.0, 0.0), (0.5, 4.0), (1.5, -5.0))])
CLOUDS[:, 2] *= 1000.0
IMAGES = RNG.random((80, 16))

GAUSSIAN = mixcoder.GaussianMixture(3, random_state=0).fit(CLOUDS)
KMEANS = mixcoder.KMeans(4, random_state=0).fit(IMAGES)
PLANES = mixcoder.PPCAMixture(2, 3, random_state=0).fit(IMAGES)
EMBEDDED = mixcoder.ParametricEmbedding(2, model=GAUSSIAN, absorber=0.2).fit(CLOUDS)
ANNEALED = mixcoder.Mixture(
    "gaussian_diagonal", 3, encoder=Tempered(0.3, target_beta=1.0), random_state=0
).fit(CLOUDS)
AUTO = mixcoder.GaussianMixture("auto", random_state=0).fit(CLOUDS)

CASES = {
    "density": (plot.DensityDisplay, (GAUSSIAN, CLOUDS), {"feature": 1}),
    "ellipses": (plot.EllipseDisplay, (GAUSSIAN, CLOUDS), {}),
    "ellipses, no rows": (plot.EllipseDisplay, (GAUSSIAN,), {"features": (0, 3)}),
    "history": (plot.HistoryDisplay, (GAUSSIAN,), {}),
    "annealing": (plot.HistoryDisplay, (ANNEALED,), {}),
    "responsibilities": (plot.ResponsibilityDisplay, (GAUSSIAN, CLOUDS), {}),
    "uncertainty": (plot.UncertaintyDisplay, (GAUSSIAN, CLOUDS), {}),
    "prototypes": (plot.PrototypeDisplay, (KMEANS,), {}),
    "reconstructions": (plot.ReconstructionDisplay, (PLANES, IMAGES), {"shape": (2, 8)}),
    "codebook": (plot.CodebookDisplay, (KMEANS, IMAGES), {}),
    "rate-distortion": (plot.RateDistortionDisplay, (KMEANS, IMAGES), {"n_components": (2, 3, 5)}),
    "embedding": (plot.EmbeddingDisplay, (EMBEDDED,), {}),
    "selection": (plot.SelectionDisplay, (AUTO,), {}),
    "spectrum": (plot.SpectrumDisplay, (PLANES,), {}),
}
EVERY = pytest.mark.parametrize("name", CASES)


def draw(name, **more):
    display, arguments, options = CASES[name]
    return display.from_estimator(*arguments, **options, **more)


def test_every_display_has_a_case():
    shown = {display.__name__ for display, _, _ in CASES.values()} | {"CornerDisplay"}
    assert shown == set(plot.__all__)


@EVERY
def test_a_display_draws_on_new_axes_and_again(name):
    display = draw(name)
    assert display.ax_.figure is display.figure_
    first = display.figure_
    display.figure_.canvas.draw()
    assert display.plot() is display
    assert display.figure_ is not first


@EVERY
def test_a_display_draws_on_given_axes_and_opens_no_figure(name):
    figure, (left, right) = plt.subplots(1, 2)
    display = draw(name, ax=right)
    assert display.ax_ is right
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    assert not left.has_data()


@EVERY
def test_what_is_drawn_is_not_the_model(name):
    """A display keeps arrays: none is an estimator, and drawing changes none."""
    display = draw(name)
    kept = {key: value for key, value in vars(display).items() if not key.endswith("_")}
    assert not any(hasattr(value, "fit") for value in kept.values())


@pytest.mark.parametrize("display", [getattr(plot, name) for name in plot.__all__], ids=lambda d: d.__name__)
def test_other_estimators_are_refused_by_name(display):
    more = {"n_components": (2, 3)} if display is plot.RateDistortionDisplay else {}
    with pytest.raises(TypeError, match="got KMeans"):
        display.from_estimator(TheirKMeans(2, n_init=1).fit(CLOUDS), CLOUDS, **more)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "display",
    [
        plot.DensityDisplay,
        plot.EllipseDisplay,
        plot.CornerDisplay,
        plot.UncertaintyDisplay,
        plot.ResponsibilityDisplay,
    ],
)
def test_displays_of_probabilities_refuse_k_means(display):
    with pytest.raises(TypeError, match="KMeans has none"):
        display.from_estimator(KMEANS, IMAGES)


def test_refusals_name_the_remedy():
    with pytest.raises(NotFittedError):
        plot.EllipseDisplay.from_estimator(mixcoder.GaussianMixture(2))
    counts = mixcoder.Mixture("poisson", 2, random_state=0).fit(RNG.poisson(3.0, (40, 3)).astype(float))
    with pytest.raises(TypeError, match="this model has Poisson"):
        plot.EllipseDisplay.from_estimator(counts)
    with pytest.raises(ValueError, match="no feature 'height'"):
        plot.DensityDisplay.from_estimator(GAUSSIAN, feature="height")
    with pytest.raises(ValueError, match=r"0\.\.3, got 4"):
        plot.EllipseDisplay.from_estimator(GAUSSIAN, features=(0, 4))
    with pytest.raises(ValueError, match="two features, got 3"):
        plot.EllipseDisplay.from_estimator(GAUSSIAN, features=(0, 1, 2))
    with pytest.raises(ValueError, match="distinct"):
        plot.EllipseDisplay.from_estimator(GAUSSIAN, features=(1, 1))
    with pytest.raises(ValueError, match="between 0 and 1, got 90"):
        plot.EllipseDisplay.from_estimator(GAUSSIAN, mass=90)
    with pytest.raises(ValueError, match="no square image"):
        plot.PrototypeDisplay.from_estimator(mixcoder.KMeans(2).fit(CLOUDS[:, :3]))
    with pytest.raises(ValueError, match="12 pixels, but rows have 16"):
        plot.PrototypeDisplay.from_estimator(KMEANS, shape=(3, 4))
    with pytest.raises(ValueError, match="made from parameters"):
        plot.HistoryDisplay.from_estimator(
            mixcoder.GaussianMixture.from_parameters([1.0], [[0.0]], [[[1.0]]])
        )
    with pytest.raises(TypeError, match="PPCAMixture or FactorAnalyzerMixture, got GaussianMixture"):
        plot.SpectrumDisplay.from_estimator(GAUSSIAN)
    with pytest.raises(ValueError, match="2 features"):
        plot.ResponsibilityDisplay.from_estimator(GAUSSIAN, CLOUDS[:, :2])


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"])
def test_moments_are_those_of_the_estimator(kind):
    rows = CLOUDS / [1, 1, 1000, 1]
    model = mixcoder.GaussianMixture(3, covariance_type=kind, random_state=0).fit(rows)
    seen, covariances = moments(model.model_), model.covariances_
    expected = {
        "full": lambda: covariances,
        "tied": lambda: np.array([covariances] * 3),
        "diag": lambda: np.array([np.diag(c) for c in covariances]),
        "spherical": lambda: np.array([np.eye(4) * c for c in covariances]),
        "tied_diag": lambda: np.array([np.diag(covariances)] * 3),
        "tied_spherical": lambda: np.array([np.eye(4) * covariances] * 3),
    }[kind]()
    np.testing.assert_allclose(seen.means, model.means_, rtol=1e-12)
    np.testing.assert_allclose(seen.spreads, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "family",
    [
        components.PPCA(2),
        components.FactorAnalyzer(2),
        components.GaussianLowRankTied(2),
        components.StudentT(),
        components.GaussianFull(),
    ],
)
def test_densities_in_the_space_of_the_rows_are_those_of_the_model(family):
    rows = CLOUDS / [1, 1, 1000, 1]
    model = mixcoder.Mixture(family, 2, random_state=0).fit(rows)
    ours = moments(model.model_).densities(rows).sum(1)
    np.testing.assert_allclose(np.log(ours), model.score_samples(rows), rtol=1e-9)


def test_half_axes_are_the_eigenvectors_of_the_covariance_at_the_stated_mass():
    display = plot.EllipseDisplay.from_estimator(GAUSSIAN, CLOUDS, features=(0, 3), mass=0.8)
    inside = []
    for k, patch in enumerate(display.ellipses_):
        covariance = GAUSSIAN.covariances_[k][np.ix_([0, 3], [0, 3])]
        radius2 = -2 * np.log(1 - 0.8)  # the quantile of chi^2 with two degrees of freedom, in closed form
        rebuilt = (
            display.directions[k] @ np.diag(display.half_axes[k] ** 2) @ display.directions[k].T / radius2
        )
        np.testing.assert_allclose(rebuilt, covariance, rtol=1e-10, atol=1e-12)
        # The patch itself, in the coordinates of the picture: its edge lies at that Mahalanobis distance.
        edge = patch.get_patch_transform().transform(patch.get_path().vertices) - GAUSSIAN.means_[k][[0, 3]]
        distance2 = np.einsum("ne,ne->n", edge @ np.linalg.inv(covariance), edge)
        on_curve = np.isclose(distance2, radius2, rtol=1e-3)
        assert on_curve.mean() > 0.3, "Bezier control points lie outside, end points on the curve"
        draws = np.random.default_rng(k).multivariate_normal(np.zeros(2), covariance, 20_000)
        inside.append((np.einsum("ne,ne->n", draws @ np.linalg.inv(covariance), draws) <= radius2).mean())
    np.testing.assert_allclose(inside, 0.8, atol=0.02)


@pytest.mark.parametrize("dof", [np.inf, 3.0])
def test_a_radius_holds_its_mass_and_densities_agree_with_scipy(dof):
    spread = np.array([[2.0, 0.6], [0.6, 1.0]])
    mixture = PlanarMixture(np.array([1.0]), np.array([[1.0, -2.0]]), spread[None], np.array([dof]))
    law = multivariate_normal([1, -2], spread) if np.isinf(dof) else multivariate_t([1, -2], spread, dof)
    draws = law.rvs(40_000, random_state=0)
    np.testing.assert_allclose(mixture.densities(draws[:50])[:, 0], law.pdf(draws[:50]), rtol=1e-10)
    apart = draws - [1, -2]
    distance = np.sqrt(np.einsum("ne,ne->n", apart @ np.linalg.inv(spread), apart))
    for mass in (0.5, 0.95):
        assert abs((distance <= mixture.radius(mass)[0]).mean() - mass) < 0.01


@pytest.mark.parametrize("features", [(0, 1), None], ids=["columns", "principal plane"])
def test_the_density_integrates_to_one_on_its_grid(features):
    display = plot.EllipseDisplay.from_estimator(GAUSSIAN, CLOUDS, features=features, grid_size=300)
    total = np.trapezoid(np.trapezoid(display.density, display.grid[0], axis=1), display.grid[1])
    assert abs(total - 1) < 3e-3
    line = plot.DensityDisplay.from_estimator(GAUSSIAN, CLOUDS, feature=2)
    np.testing.assert_allclose(np.trapezoid(line.densities, line.grid, axis=0), GAUSSIAN.weights_, atol=2e-3)


def test_the_density_of_columns_is_that_of_the_marginal():
    display = plot.EllipseDisplay.from_estimator(GAUSSIAN, features=(3, 1), grid_size=20)
    mesh = np.stack(np.meshgrid(*display.grid), axis=-1).reshape(-1, 2)
    expected = np.exp(GAUSSIAN.marginal([3, 1]).score_samples(mesh)).reshape(20, 20)
    np.testing.assert_allclose(display.density, expected, rtol=1e-9, atol=1e-300)


def test_contours_hold_their_share_of_the_mixture():
    display = plot.EllipseDisplay.from_estimator(GAUSSIAN, features=(0, 1), grid_size=300)
    rows, _ = GAUSSIAN.sample(20_000)
    density = np.exp(GAUSSIAN.marginal([0, 1]).score_samples(rows[:, :2]))
    for level, mass in zip(mass_levels(display.density, display.masses), display.masses, strict=True):
        assert abs((density >= level).mean() - mass) < 0.015


def test_the_principal_plane_does_not_depend_on_units():
    ours = principal(GAUSSIAN, CLOUDS).coordinates(CLOUDS)
    scaled = CLOUDS * [1, 1e-3, 1e3, 7]
    other = principal(mixcoder.GaussianMixture(3, random_state=0).fit(scaled), scaled).coordinates(scaled)
    np.testing.assert_allclose(ours, other, rtol=1e-8, atol=1e-8)
    # Of the mixture itself, without rows: at a stationary point of EM its moments are those of the rows.
    np.testing.assert_allclose(
        principal(GAUSSIAN, None).axes, principal(GAUSSIAN, CLOUDS).axes, rtol=1e-2, atol=1e-3
    )


def test_a_projection_is_the_law_of_projected_draws():
    plane = principal(GAUSSIAN, CLOUDS)
    seen = project(GAUSSIAN.model_, plane)
    rows, index = mixcoder.GaussianMixture.sample(GAUSSIAN, 30_000)
    points = plane.coordinates(rows)
    for k in range(3):
        own = points[index == k]
        np.testing.assert_allclose(own.mean(0), seen.means[k], atol=0.05)
        np.testing.assert_allclose(np.cov(own.T), seen.spreads[k], atol=0.05)


def test_the_history_drawn_is_the_history():
    display = draw("annealing")
    np.testing.assert_array_equal(display.line_.get_ydata(), ANNEALED.history_["bound"])
    assert display.beta_ax_ is not None
    np.testing.assert_array_equal(display.beta_ax_.lines[0].get_ydata(), ANNEALED.history_["beta"])
    assert draw("history").beta_ax_ is None
    marked = plot.HistoryDisplay(bound=[1.0, 2.0, 3.0], events=[(2, "iteration 2: repaired")]).plot()
    assert [line.get_xdata()[0] for line in marked.ax_.lines[1:]] == [2]


def test_responsibilities_are_drawn_by_component_the_surest_first():
    display = draw("responsibilities")
    drawn = np.asarray(display.image_.get_array())
    np.testing.assert_array_equal(drawn, GAUSSIAN.predict_proba(CLOUDS)[display.order_])
    labels, certainty = drawn.argmax(1), drawn.max(1)
    assert (np.diff(labels) >= 0).all()
    assert (np.diff(certainty)[np.diff(labels) == 0] <= 0).all()
    assert len(display.plot(max_rows=20).order_) == 20


def test_doubtful_rows_are_those_above_the_threshold():
    model = mixcoder.GaussianMixture.from_parameters([0.5, 0.5], [[0.0, 0.0], [2.0, 0.0]], [np.eye(2)] * 2)
    rows, _ = model.sample(300)
    display = plot.UncertaintyDisplay.from_estimator(model, rows).plot(threshold=0.2)
    doubt = 1 - model.predict_proba(rows).max(1)
    assert len(display.doubtful_.get_offsets()) == (doubt > 0.2).sum() > 0
    np.testing.assert_allclose(np.sort(display.doubtful_.get_array()), np.sort(doubt[doubt > 0.2]))
    sizes = display.doubtful_.get_sizes()
    assert (np.diff(sizes[np.argsort(display.doubtful_.get_array())]) >= 0).all()


def test_prototypes_and_reconstructions_are_those_of_the_model():
    display = draw("prototypes")
    for tile, k in zip(display.axes_, display.order_, strict=True):
        np.testing.assert_array_equal(tile.images[0].get_array().ravel(), KMEANS.cluster_centers_[k])
    assert (np.diff(KMEANS.weights_[display.order_]) <= 0).all()
    shown = draw("reconstructions", n_images=5)
    found = PLANES.reconstruct(shown.originals.reshape(5, 16))
    np.testing.assert_array_equal(shown.axes_[1, 3].images[0].get_array().ravel(), found[3])
    assert shown.axes_.shape == (3, 5)


@pytest.mark.parametrize(
    "model", [PLANES, KMEANS, mixcoder.SubspaceMixture(2, 3, random_state=0).fit(IMAGES)]
)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, pd.DataFrame])
def test_what_reconstructions_leave_over_is_the_distortion(model, kind):
    rows = kind(IMAGES)
    shown = plot.ReconstructionDisplay.from_estimator(model, IMAGES, n_images=len(IMAGES))
    squared = ((shown.originals - shown.reconstructions) ** 2).sum((1, 2)).mean()
    assert squared == pytest.approx(model.distortion(IMAGES), rel=1e-9)
    named = clone(model).fit(rows)
    again = plot.ReconstructionDisplay.from_estimator(named, rows, n_images=len(IMAGES))
    np.testing.assert_allclose(again.reconstructions, shown.reconstructions, rtol=1e-9)


def test_codebook_usage_counts_the_labels():
    display = draw("codebook")
    counts = np.bincount(KMEANS.labels_, minlength=4)
    heights = [bar.get_height() for bar in display.bars_]
    np.testing.assert_allclose(heights, 100 * np.sort(counts / 80)[::-1])
    equal = plot.CodebookDisplay(usage=np.full(8, 0.125)).plot()
    assert (equal.entropy_bits_, equal.perplexity_, equal.n_unused_) == (3.0, 8.0, 0)


def test_rate_and_distortion_are_those_of_the_estimators():
    models = [mixcoder.KMeans(k, random_state=0).fit(IMAGES) for k in (5, 2)]
    display = plot.RateDistortionDisplay.from_estimators({"ours": models}, IMAGES)
    expected = sorted((m.rate(IMAGES), m.distortion(IMAGES)) for m in models)
    np.testing.assert_array_equal(np.stack(display.lines_[0].get_data(), axis=1), expected)
    assert display.labels["ours"] == ["2", "5"]


def test_the_absorbers_share_is_what_the_kernel_says():
    display = draw("embedding")
    i, j = 17, 90
    place = np.array([display.grid[0][j], display.grid[1][i]])
    weights = np.exp(-((place - EMBEDDED.anchors_) ** 2).sum(1))
    np.testing.assert_allclose(display.absorbed[i, j], 0.2 / (0.2 + weights.sum()), rtol=1e-10)
    np.testing.assert_array_equal([t.get_position() for t in display.anchors_], EMBEDDED.anchors_)
    placed = plot.EmbeddingDisplay.from_estimator(EMBEDDED, CLOUDS[:7])
    np.testing.assert_allclose(placed.codes, EMBEDDED.transform(CLOUDS[:7]))


def test_a_mixture_that_is_a_map_is_drawn_like_the_map_of_a_mixture():
    model = mixcoder.EmbeddedMixture("gaussian_diagonal", 3, absorber=0.2, random_state=0).fit(CLOUDS)
    display = plot.EmbeddingDisplay.from_estimator(model)
    np.testing.assert_array_equal(display.codes, model.embedding_)
    np.testing.assert_array_equal([t.get_position() for t in display.anchors_], model.anchors_)
    placed = plot.EmbeddingDisplay.from_estimator(model, CLOUDS[:7])
    np.testing.assert_allclose(placed.codes, model.transform(CLOUDS[:7]))
    line = mixcoder.EmbeddedMixture("gaussian_diagonal", 3, n_axes=1, random_state=0).fit(CLOUDS)
    with pytest.raises(ValueError, match="one axis"):
        plot.EmbeddingDisplay.from_estimator(line)


def test_the_selection_drawn_is_the_selection():
    candidates = AUTO.selection_.candidates
    display = draw("selection")
    (line,) = display.lines_.values()
    assert line.get_xdata().tolist() == [c.n_components for c in candidates if c.failure is None]
    assert line.get_ydata().tolist() == [c.bic for c in candidates if c.failure is None]
    assert display.best_.get_xdata() == [AUTO.n_components_]
    failed = Candidate({"n_components": 9}, 9, failure="it broke")
    both = plot.SelectionDisplay.from_selection(Selection((*candidates, failed), "icl"))
    assert both.failed_.get_xdata().tolist()[-1] == 9
    with pytest.raises(TypeError, match="n_components='auto'"):
        plot.SelectionDisplay.from_estimator(GAUSSIAN)
    with pytest.raises(ValueError, match="criterion must be one of"):
        plot.SelectionDisplay.from_estimator(AUTO, criterion="dic")


def test_spectra_are_eigenvalues_of_the_low_rank_part():
    display = draw("spectrum")
    for k, line in enumerate(display.lines_):
        loadings = PLANES.loadings_[k]
        values = np.linalg.eigvalsh(loadings @ loadings.T)[::-1][:3]
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-9)
    np.testing.assert_array_equal(display.noise, PLANES.noise_variances_)


def test_a_corner_has_every_pair_once():
    display = plot.CornerDisplay.from_estimator(GAUSSIAN, CLOUDS, features=(2, 0, 3))
    assert display.axes_.shape == (3, 3)
    assert set(display.pairs) == {(1, 0), (2, 0), (2, 1)}
    assert display.pairs[2, 1].names == ("x0", "x3")
    for (i, j), pair in display.pairs.items():
        assert display.axes_[i, j].get_xlim() == display.axes_[j, j].get_xlim()
        assert pair.ax_ is display.axes_[i, j]
    _, axes = plt.subplots(2, 2)
    with pytest.raises(ValueError, match=r"\(3, 3\), got \(2, 2\)"):
        plot.CornerDisplay.from_estimator(GAUSSIAN, features=(0, 1, 2), ax=axes)
    with pytest.raises(ValueError, match="two features or more"):
        plot.CornerDisplay.from_estimator(GAUSSIAN, features=(0,))


def test_a_corner_chooses_the_columns_that_tell_components_apart():
    rows = RNG.normal(size=(200, 8))
    rows[:100, 6] += 8
    model = mixcoder.GaussianMixture(2, covariance_type="diag", random_state=0).fit(rows)
    display = plot.CornerDisplay.from_estimator(model)
    assert "x6" in [density.name for density in display.densities]
    assert len(display.densities) == 5


def test_frames_tensors_and_float32_are_drawn_alike():
    import pandas as pd

    narrow = CLOUDS.astype(np.float32)
    model = mixcoder.GaussianMixture(3, random_state=0).fit(pd.DataFrame(narrow, columns=list("abcd")))
    display = plot.EllipseDisplay.from_estimator(
        model, pd.DataFrame(narrow, columns=list("abcd")), features=("d", "a")
    )
    assert display.names == ("d", "a")
    assert display.rows.dtype == np.float64
    tensors = mixcoder.GaussianMixture(3, random_state=0).fit(torch.from_numpy(CLOUDS))
    shown = plot.EllipseDisplay.from_estimator(tensors, torch.from_numpy(CLOUDS))
    np.testing.assert_allclose(shown.rows, draw("ellipses").rows)
    plot.CodebookDisplay.from_estimator(tensors, torch.from_numpy(CLOUDS))


def test_components_without_a_weight_have_no_ellipse():
    model = mixcoder.GaussianMixture.from_parameters([1.0, 0.0], [[0.0, 0.0], [9.0, 9.0]], [np.eye(2)] * 2)
    display = plot.EllipseDisplay.from_estimator(model)
    assert len(display.ellipses_) == 1
    assert display.grid[0][-1] < 9


def test_matplotlib_is_imported_with_the_first_picture():
    files = list(Path(plot.__file__).parent.glob("*.py"))
    assert len(files) > len(plot.__all__)
    for file in files:
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                assert "matplotlib" not in ast.unparse(statement), file
