"""Dask collections: the bits of the same rows in memory, and answers that wait until they are asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

import mixcoder
from mixcoder.errors import DataChangedError, DataError, DataTypeError

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array", reason="Dask is not installed")
dd = pytest.importorskip("dask.dataframe", reason="Dask is not installed")


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3))[rng.integers(4, size=12_000)] * 4 + rng.normal(size=(12_000, 3))


@pytest.fixture(scope="module")
def frame(x):
    return pd.DataFrame(x, columns=["a", "b", "c"])


def make():
    return mixcoder.GaussianMixture(4, random_state=0)


def require_same(here, there):
    assert here.lower_bounds_ == there.lower_bounds_
    assert np.array_equal(here.means_, there.means_)
    assert np.array_equal(here.covariances_, there.covariances_)


@pytest.mark.parametrize("chunks", [(700, 3), (12_000, 3), (5000, 2), ((1, 0, 6999, 5000), 3)])
def test_chunks_are_cut_again_at_the_blocks_of_memory(x, chunks):
    require_same(make().fit(x), make().fit(da.from_array(x, chunks=chunks)))
    narrow = x.astype(np.float32)
    require_same(make().fit(narrow), make().fit(da.from_array(narrow, chunks=chunks)))


def test_missing_entries_of_chunks_are_integrated_out_and_imputed_when_asked_for(x):
    gone = np.where(np.random.default_rng(1).uniform(size=x.shape) < [0.2, 0.4, 0.0], np.nan, x)[:4000]
    lazy = da.from_array(gone, chunks=(700, 3))
    here, there = make().fit(gone), make().fit(lazy)
    require_same(here, there)
    filled = there.impute(lazy)
    assert isinstance(filled, da.Array)
    assert filled.shape == gone.shape
    assert np.allclose(filled.compute(), here.impute(gone), rtol=1e-12)
    # set_output asks for data frames of what is in memory; what is not stays an array.
    np.testing.assert_array_equal(
        there.set_output(transform="pandas").impute(lazy).compute(), filled.compute()
    )
    assert np.allclose(there.score_samples(lazy).compute(), here.score_samples(gone), rtol=1e-12)


def test_planes_of_chunks(x):
    lazy = da.from_array(x[:4000], chunks=(700, 3))
    for model in (mixcoder.SubspaceMixture(3, 2, random_state=0), mixcoder.PPCAMixture(3, 2, random_state=0)):
        here, there = clone(model).fit(x[:4000]), clone(model).fit(lazy)
        assert np.array_equal(here.weights_, there.weights_)
        assert np.array_equal(here.means_, there.means_)
        for ask, options in (("transform", {}), ("reconstruct", {}), ("reconstruct", {"rule": "nearest"})):
            if options and isinstance(model, mixcoder.SubspaceMixture):
                continue
            lazily = getattr(there, ask)(lazy, **options)
            assert isinstance(lazily, da.Array)
            answer = getattr(here, ask)(x[:4000], **options)
            assert lazily.shape == answer.shape
            assert lazily.dtype == answer.dtype
            assert np.allclose(lazily.compute(), answer, rtol=1e-9, atol=1e-9)


def test_a_posterior_of_chunks(x):
    lazy = da.from_array(x, chunks=(700, 3))
    here, there = (
        mixcoder.BayesianGaussianMixture(5, tol=1.0, random_state=0).fit(rows) for rows in (x, lazy)
    )
    require_same(here, there)
    predictive = there.log_predictive(lazy)
    assert isinstance(predictive, da.Array)
    assert np.allclose(predictive.compute(), here.log_predictive(x), rtol=1e-12)


def test_sizes_that_are_not_known_are_counted(x):
    lazy = da.from_array(x, chunks=(1000, 3))
    lazy = lazy[lazy[:, 0] > 0]
    assert np.isnan(lazy.shape[0])
    require_same(make().fit(x[x[:, 0] > 0]), make().fit(lazy))


def test_a_frame_brings_its_names(x, frame):
    lazy = dd.from_pandas(frame, npartitions=5)
    here, there = make().fit(frame), make().fit(lazy)
    require_same(here, there)
    assert there.feature_names_in_.tolist() == ["a", "b", "c"]
    assert np.array_equal(there.predict(lazy).compute(), here.predict(frame))
    with pytest.raises(DataError, match="fitted with"):
        there.predict(lazy[["b", "a", "c"]])
    with pytest.raises(DataError, match=r"column 1 \('b'\)"):
        make().fit(dd.from_pandas(frame.assign(b=np.nan), npartitions=2))


def test_weights_and_persisted_chunks_on_a_cluster(x):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    weights = np.random.default_rng(1).uniform(size=len(x))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        for rows in (da.from_array(x, chunks=(1500, 3)), da.from_array(x, chunks=(1500, 3)).persist()):
            with mixcoder.engine("dask", client=client):
                require_same(make().fit(x, sample_weight=weights), make().fit(rows, sample_weight=weights))
            require_same(make().fit(x), make().fit(rows))  # the active client, without being told
            with mixcoder.engine("serial"):
                require_same(make().fit(x), make().fit(rows))


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "transform", "score_samples", "encode", "reconstruct"]
)
def test_answers_are_lazy(x, method):
    model, calls = make().fit(x), []

    def traced(block):
        calls.append(len(block))
        return block

    lazy = da.from_array(x, chunks=(5000, 2)).map_blocks(traced, dtype=x.dtype, meta=np.empty((0, 0)))
    answer = getattr(model, method)(lazy)
    assert isinstance(answer, da.Array)
    assert calls == []
    expected = getattr(model, method)(x)
    found = answer.compute(scheduler="synchronous")
    assert answer.dtype == expected.dtype == found.dtype
    assert answer.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert calls


def test_chunks_without_rows_are_answered(x):
    lazy = da.from_array(x, chunks=(6000, 3))
    none = lazy[lazy[:, 0] > 1e9]
    model = make().fit(x)
    assert model.predict(none).compute().shape == (0,)
    assert model.transform(none).compute().shape == (0, 4)
    with pytest.raises(DataError, match="0 rows"):
        model.fit(none)


def test_sums_over_rows_are_those_of_memory(x):
    model, lazy = make().fit(x), da.from_array(x, chunks=(1000, 3))
    assert model.score(lazy) == model.score(x)
    assert model.bic(lazy) == model.bic(x)
    assert model.rate(lazy) == model.rate(x)


def test_k_means_keeps_no_labels(x, tmp_path):
    lazy = da.from_array(x, chunks=(1000, 3))
    here, there = (mixcoder.KMeans(4, random_state=0).fit(rows) for rows in (x, lazy))
    assert np.allclose(here.cluster_centers_, there.cluster_centers_, rtol=1e-12)
    assert there.inertia_ == pytest.approx(here.inertia_, rel=1e-12)
    assert np.array_equal(here.weights_, there.weights_)
    assert not hasattr(there, "labels_")
    labels = mixcoder.KMeans(4, random_state=0).fit_predict(lazy)
    assert isinstance(labels, da.Array)
    assert np.array_equal(labels.compute(), here.labels_)
    there.save(tmp_path / "m.mixcoder")
    again = mixcoder.load(tmp_path / "m.mixcoder")
    assert np.array_equal(again.predict(x), here.labels_)
    assert not hasattr(again, "labels_")


def test_rows_that_change_between_passes_are_an_error(x):
    sizes = iter([6000, 6000, 6000, 5999, *[5998] * 1000])
    chunk = lambda: torch.zeros(next(sizes), 2).numpy()  # noqa: E731
    from dask import delayed

    rows = da.concatenate([da.from_delayed(delayed(chunk)(), (np.nan, 2), np.float32) for _ in range(2)])
    # In this process: a cluster that another test has left would be sent a copy of the sizes, all of them unused.
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(DataChangedError, match="the same every time"),
        mixcoder.engine("serial"),
    ):
        make().fit(rows)


def test_what_is_no_table_is_refused(x):
    for rows, kind, match in [
        (da.from_array(x)[:, 0], DataError, "2D array"),
        (da.from_array(x)[None], DataError, "2D array"),
        (da.from_array(x.astype(complex)), DataTypeError, "real numbers"),
        (da.from_array(x.astype(str)), DataTypeError, "real numbers"),
        (dd.from_pandas(pd.DataFrame({"a": ["u", "v"]}), npartitions=1), DataTypeError, "column 'a'"),
    ]:
        with pytest.raises(kind, match=match):
            make().fit(rows)
    with pytest.raises(DataError, match="is expecting"):
        make().fit(x).predict(da.from_array(x[:, :2]))


def test_batches_may_be_dask_collections_and_files(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    for kind in (make, lambda: mixcoder.KMeans(4, random_state=0)):
        models = [kind() for _ in range(3)]
        for rows, model in zip(
            (x, da.from_array(x, chunks=(1000, 3)), mixcoder.open_blocks(tmp_path)), models, strict=True
        ):
            model.partial_fit(rows).partial_fit(rows)
        for model in models[1:]:
            assert np.allclose(model.model_.prototypes(), models[0].model_.prototypes(), rtol=1e-12)
