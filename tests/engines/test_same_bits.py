"""The fitted model does not depend on who adds: threads, processes, a cluster of one or two workers."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import mixcoder
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.engines import LocalEngine
from mixcoder.engines.dask import DaskEngine
from mixcoder.errors import DataError, DegenerateComponentWarning, EmptyRowWarning
from mixcoder.estimators.mixture import families

ENGINES = ["serial", "processes", "dask"]


@pytest.fixture(params=ENGINES)
def elsewhere(request):
    """An engine other than threads."""
    if request.param == "serial":
        return lambda: mixcoder.engine("serial")
    if request.param == "processes":
        pool = request.getfixturevalue("processes")
        return lambda: mixcoder.engine(pool)
    client = request.getfixturevalue("cluster")
    return lambda: mixcoder.engine("dask", client=client)


def leaves(value):
    """Return every tensor of parameters or sums."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in leaves(part)]
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name))]
    return []


def require_same(one, two):
    assert one.lower_bounds_ == two.lower_bounds_
    assert torch.equal(one.model_.log_weights, two.model_.log_weights)
    for mine, theirs in zip(
        leaves((one.model_.params, one._sums)), leaves((two.model_.params, two._sums)), strict=True
    ):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()


def fitted(make, rows, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", DegenerateComponentWarning)
        warnings.simplefilter("ignore", EmptyRowWarning)
        return make().fit(rows, **options)


def every_family():
    for name, family in families().items():
        for place, (example, params) in enumerate(family.examples()):
            yield pytest.param(example, params, id=f"{name}-{place}")


@pytest.mark.parametrize(("family", "params"), list(every_family()))
def test_every_family(elsewhere, family, params):
    generator = torch.Generator().manual_seed(3)
    x = family.sample(params, torch.arange(9000) % params.n_components, generator).double()
    make = lambda: mixcoder.Mixture(family, params.n_components, random_state=0, max_iter=4, tol=0)  # noqa: E731
    here = fitted(make, x)
    with elsewhere():
        there = fitted(make, x)
    require_same(here, there)


@pytest.mark.parametrize("encoder", [Posterior(), Argmax(), Tempered(0.5), Tempered(0.2, target_beta=1.0)])
def test_every_encoder(elsewhere, table, encoder):
    make = lambda: mixcoder.Mixture("gaussian_full", 4, encoder=encoder, random_state=0, max_iter=6)  # noqa: E731
    here = fitted(make, table)
    with elsewhere():
        require_same(here, fitted(make, table))


@pytest.mark.parametrize("start", ["auto", "kmeans", "k-means++", "random", "random_from_data", "labels"])
def test_every_start(elsewhere, table, start):
    how = np.arange(len(table)) % 4 if start == "labels" else start
    if start == "labels":
        make = lambda: mixcoder.Mixture(n_components=4, init=how, max_iter=3)  # noqa: E731
    else:
        make = lambda: mixcoder.GaussianMixture(4, init_params=how, random_state=0, max_iter=3)  # noqa: E731
    here = fitted(make, table)
    with elsewhere():
        require_same(here, fitted(make, table))


@pytest.mark.parametrize("kind", ["float32", "by columns", "strided", "weights", "files"])
def test_every_kind_of_rows(elsewhere, table, kind, tmp_path):
    options = {}
    rows = {
        "float32": table.astype(np.float32),
        "by columns": np.asfortranarray(table),
        "strided": np.repeat(table, 2, axis=1)[::3, ::2],
    }.get(kind, table)
    if kind == "weights":
        options["sample_weight"] = np.random.default_rng(1).uniform(0.0, 2.0, len(table))
    make = lambda: mixcoder.GaussianMixture(4, random_state=0, max_iter=5)  # noqa: E731
    here = fitted(make, rows, **options)
    if kind == "files":
        for i, piece in enumerate(np.array_split(table, 5)):
            np.save(tmp_path / f"{i}.npy", piece)
        rows = mixcoder.open_blocks(tmp_path)
    with elsewhere():
        there = fitted(make, rows, **options)
    require_same(here, there)


@pytest.mark.parametrize("options", [{}, {"n_latent": [1, 2, 1], "noise": "shared"}, {"shrinkage": 0.1}])
@pytest.mark.parametrize("kind", ["PPCAMixture", "FactorAnalyzerMixture"])
def test_linear_mixtures(elsewhere, table, kind, options):
    make = lambda: getattr(mixcoder, kind)(3, random_state=0, max_iter=4, **options)  # noqa: E731
    here = fitted(make, table)
    with elsewhere():
        require_same(here, fitted(make, table))


@pytest.mark.parametrize("n_latent", [1, [1, 2, 1], "auto"])
def test_planes(elsewhere, table, n_latent):
    make = lambda: mixcoder.SubspaceMixture(3, n_latent, random_state=0, max_iter=4)  # noqa: E731
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(table))
    here = fitted(make, table, sample_weight=weights)
    with elsewhere():
        there = fitted(make, table, sample_weight=weights)
    assert here.history_["bound"] == there.history_["bound"]
    assert here.inertia_ == there.inertia_
    for name in ("means_", "bases_", "weights_", "n_latent_"):
        assert np.array_equal(getattr(here, name), getattr(there, name))


def every_family_that_may_miss_entries():
    for name, family in families().items():
        for place, (example, params) in enumerate(family.examples()):
            if example.marginalizes:
                yield pytest.param(example, params, id=f"{name}-{place}")


def with_gaps(x, share=0.2):
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < share
    gone[7] = True
    return x.masked_fill(gone, torch.nan)


@pytest.mark.parametrize(("family", "params"), list(every_family_that_may_miss_entries()))
def test_every_family_with_missing_entries(elsewhere, family, params):
    generator = torch.Generator().manual_seed(3)
    x = with_gaps(family.sample(params, torch.arange(1200) % params.n_components, generator).double())
    make = lambda: mixcoder.Mixture(family, params.n_components, random_state=0, max_iter=3, tol=0)  # noqa: E731
    here = fitted(make, x)
    with elsewhere():
        require_same(here, fitted(make, x))


@pytest.mark.parametrize("start", ["kmeans", "k-means++", "random", "random_from_data", "labels"])
def test_every_start_with_missing_entries(elsewhere, table, start):
    x = with_gaps(torch.from_numpy(table[:6000])).numpy()
    how = np.arange(len(x)) % 4 if start == "labels" else start
    make = lambda: mixcoder.GaussianMixture(  # noqa: E731
        4, covariance_type="diag", init_params=how, random_state=0, max_iter=3
    )
    here = fitted(make, x)
    with elsewhere():
        require_same(here, fitted(make, x))


def test_missing_entries_in_files_in_batches_and_in_lost_components(elsewhere, table, tmp_path):
    x = with_gaps(torch.from_numpy(table[:6000])).numpy()
    for i, piece in enumerate(np.array_split(x, 3)):
        np.save(tmp_path / f"{i}.npy", piece)
    files = mixcoder.open_blocks(tmp_path)
    far = [[0.0] * 3, [1e3] * 3, [-1e3] * 3]
    makes = [
        lambda: mixcoder.GaussianMixture(4, random_state=0, max_iter=3),
        lambda: mixcoder.GaussianMixture(
            3, means_init=far, weights_init=[1 / 3] * 3, precisions_init=np.stack([np.eye(3)] * 3), max_iter=4
        ),
    ]
    stepwise = [mixcoder.GaussianMixture(4, covariance_type="tied", random_state=0) for _ in range(2)]
    for make in makes:
        here = fitted(make, x)
        with elsewhere():
            require_same(here, fitted(make, files))
    assert here.history_["events"]
    for batch in np.array_split(x, 3):
        stepwise[0].partial_fit(batch)
        with elsewhere():
            stepwise[1].partial_fit(batch)
    require_same(*stepwise)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_concentration_prior_type": "dirichlet_distribution", "temperature": 0.0},
        {"posterior_temperature": 0.5, "init_params": "k-means++", "acceleration": "squarem"},
    ],
    ids=["process", "dirichlet-hard", "tempered"],
)
def test_variational_bayes(elsewhere, table, covariance_type, options):
    make = lambda: mixcoder.BayesianGaussianMixture(  # noqa: E731
        6, covariance_type=covariance_type, random_state=0, max_iter=5, **options
    )
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(table))
    here = fitted(make, table, sample_weight=weights)
    with elsewhere():
        there = fitted(make, table, sample_weight=weights)
    require_same(here, there)
    for name in (
        "_mean_precisions",
        "_degrees_of_freedom",
        "_concentrations",
        "_mean_prior",
        "_covariance_prior",
    ):
        assert torch.equal(getattr(here, name), getattr(there, name))


def test_k_means_in_this_process_to_the_bit(table):
    """Rows are remembered one by one in threads and in series alike."""
    for x in (table, table.astype(np.float32)):
        make = lambda: mixcoder.KMeans(9, random_state=0, tol=0, max_iter=30)  # noqa: E731
        torch.set_num_threads(2)
        here = fitted(make, x)
        with mixcoder.engine("serial"):
            there = fitted(make, x)
        assert np.array_equal(here.cluster_centers_, there.cluster_centers_)
        assert np.array_equal(here.labels_, there.labels_)
        assert here.inertia_ == there.inertia_
        assert here.history_["bound"] == there.history_["bound"]


def test_k_means_to_rounding_and_from_files_to_the_bit(elsewhere, table, tmp_path):
    make = lambda: mixcoder.KMeans(4, random_state=0)  # noqa: E731
    np.save(tmp_path / "x.npy", table)
    files = mixcoder.open_blocks(tmp_path)
    here, from_files = make().fit(table), make().fit(files)
    with elsewhere():
        there, there_from_files = make().fit(table), make().fit(files)
    assert np.array_equal(from_files.cluster_centers_, there_from_files.cluster_centers_)
    assert from_files.inertia_ == there_from_files.inertia_
    assert np.allclose(here.cluster_centers_, there.cluster_centers_, rtol=1e-12)
    assert there.inertia_ == pytest.approx(here.inertia_, rel=1e-12)


def test_stepwise_em(elsewhere, table):
    here, there = (mixcoder.GaussianMixture(4, random_state=0) for _ in range(2))
    for batch in np.array_split(table, 3):
        here.partial_fit(batch)
        with elsewhere():
            there.partial_fit(batch)
    require_same(here, there)


def test_lost_components_are_repaired_alike(elsewhere):
    """Half of the components begin where no row is: the worst-explained rows are found wherever they live."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(3000, 2)), rng.normal(size=(3000, 2)) + 30])
    means = [[0.0, 0.0], [1e6, 1e6], [-1e6, 1e6]]
    make = lambda: mixcoder.GaussianMixture(  # noqa: E731
        3, means_init=means, weights_init=[1 / 3] * 3, precisions_init=np.stack([np.eye(2)] * 3), max_iter=5
    )
    here = fitted(make, x)
    assert here.history_["events"]
    with elsewhere():
        require_same(here, fitted(make, x))


def test_what_is_wrong_with_rows_is_said_alike(elsewhere, table, tmp_path):
    bad = table.copy()
    bad[17_000, 1] = np.inf
    np.save(tmp_path / "x.npy", bad)
    model = mixcoder.GaussianMixture(2, random_state=0).fit(table)
    before = model.means_.copy()
    with elsewhere():
        with pytest.raises(DataError, match=r"row 17000 of .*x\.npy, column 1"):
            model.fit(mixcoder.open_blocks(tmp_path))
        with pytest.raises(DataError, match="column 2"):
            mixcoder.Mixture("bernoulli", 2).fit(np.array([[0.0, 1.0, 0.5]] * 10))
    assert np.array_equal(model.means_, before)


@pytest.mark.parametrize("n_jobs", [1, 7, 16, 83, 128])
def test_neighbouring_jobs_in_one_task_give_the_same_bits(cluster, n_jobs):
    jobs = [float(job) for job in range(n_jobs)]
    expected = LocalEngine(1).fold(math.sin, jobs)  # floats: another order of additions is another sum
    engine = DaskEngine.of(cluster)
    for seconds, size in ((math.inf, 1), (0.2, 2), (1e-9, 16)):
        engine._job_seconds = seconds
        assert engine._jobs_a_task(n_jobs, 2) == min(size, 1 << max(0, (n_jobs // 8).bit_length() - 1))
        assert engine.fold(math.sin, jobs) == expected
        assert 0 < engine._job_seconds < 10


def test_tasks_stay_short_of_what_is_taken_for_a_stall(cluster):
    engine = DaskEngine.of(cluster, stall_timeout=2.0)
    engine._job_seconds = 0.04
    assert engine._jobs_a_task(1000, 1) * 0.04 <= 2.0 / 20
    engine._job_seconds = 30.0  # jobs that are long go one by one
    assert engine._jobs_a_task(1000, 1) == 1


def test_one_worker_or_two(table):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    here = fitted(lambda: mixcoder.GaussianMixture(4, random_state=0), table)
    for n_workers in (1, 2):
        with (
            distributed.LocalCluster(
                n_workers=n_workers, threads_per_worker=1, processes=False, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
            mixcoder.engine("dask", client=client),
        ):
            require_same(here, fitted(lambda: mixcoder.GaussianMixture(4, random_state=0), table))


@pytest.mark.parametrize("kind", ["memory", "weights", "files", "collection"])
def test_an_embedded_mixture(elsewhere, table, kind, tmp_path):
    options = {}
    rows = table = table[:6000]
    if kind == "weights":
        options["sample_weight"] = np.random.default_rng(1).uniform(0.5, 2.0, len(table))
    make = lambda: mixcoder.EmbeddedMixture(n_components=4, random_state=0, absorber=1.0, max_iter=6)  # noqa: E731
    here = fitted(make, table, **options)
    if kind == "files":
        for i, piece in enumerate(np.array_split(table, 3)):
            np.save(tmp_path / f"{i}.npy", piece)
        rows = mixcoder.open_blocks(tmp_path)
    if kind == "collection":
        rows = pytest.importorskip("dask.array").from_array(table, chunks=(2500, 3))
    with elsewhere():
        there = fitted(make, rows, **options)
    assert here.history_["bound"] == there.history_["bound"]
    assert torch.equal(here._anchors, there._anchors)
    np.testing.assert_array_equal(here.embedding_, there.embedding_)
    for mine, theirs in zip(leaves(here.model_.params), leaves(there.model_.params), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kernel", ["squared", "distance", "sphere"])
@pytest.mark.parametrize("of_a_model", [False, True])
def test_a_parametric_embedding(elsewhere, table, kernel, of_a_model):
    table = table[:3000]
    model = mixcoder.GaussianMixture(4, random_state=0, max_iter=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(table)
    rows = table if of_a_model else np.log(np.maximum(model.predict_proba(table), 1e-300))
    make = lambda: mixcoder.ParametricEmbedding(  # noqa: E731
        model=model if of_a_model else None, kernel=kernel, absorber=1.0, max_iter=5
    )
    here = fitted(make, rows)
    with elsewhere():
        there = fitted(make, rows)
    assert here.history_ == there.history_
    for name in ("anchors_", "embedding_", "n_newton_steps_"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
