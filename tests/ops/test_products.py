"""Products: the same numbers whichever library multiplies, on every layout that a pass hands over."""

import pytest
import torch

from mixcoder.ops import blas, products
from mixcoder.ops.threads import single_threaded_kernels

SHAPES = [
    (1, 1, 1),
    (7, 3, 5),
    (4096, 33, 64),
    (64, 4096, 33),
    (64, 4096, 129),
    (2048, 300, 17),
    (1 << 20, 1, 1),
]


@pytest.fixture(params=[True, False], ids=["others", "torch"])
def library(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "prefers_onednn", lambda: request.param)
    monkeypatch.setattr(products, "prefers_openblas", lambda: request.param)


def layouts(x):
    return {
        "rows": x.contiguous(),
        "columns": x.T.contiguous().T,
        "part": torch.cat([x, x], 1)[:, : x.shape[1]],
    }


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_product_is_that_of_the_definition_in_every_layout(shape, dtype):
    n, f, k = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, f, generator=generator, dtype=dtype)
    b = torch.randn(f, k, generator=generator, dtype=dtype)
    exact = a.double() @ b.double()
    # Higham (2002), equation 3.13: |error| <= f eps |a| |b|, whatever the order of the sums.
    bound = f * torch.finfo(dtype).eps * (a.double().abs() @ b.double().abs()) + 1e-300
    for first in layouts(a).values():
        for second in layouts(b).values():
            for out in layouts(torch.empty(n, k, dtype=dtype)).values():
                result = products.product(first, second, out)
                assert result.shape == (n, k)
                assert result.dtype == dtype
                assert bool(((result.double() - exact).abs() <= bound).all())
            bias = torch.arange(k, dtype=dtype)
            biased = products.biased_product(first, second, bias)
            room = bound + torch.finfo(dtype).eps * (exact + bias).abs()
            assert bool(((biased.double() - exact - bias).abs() <= room).all())


@pytest.mark.usefixtures("library")
def test_one_product_has_one_answer():
    a, b = torch.randn(4096, 65), torch.randn(65, 40)
    first = products.product(a, b, torch.empty(4096, 40)).clone()
    assert all(torch.equal(first, products.product(a, b, torch.empty(4096, 40))) for _ in range(5))


def test_only_linux_processors_with_avx512_that_are_not_intels_change_library(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(blas, "_mkl_is_slow", blas._mkl_is_slow.__wrapped__)
    chosen = {}
    for vendor in ("GenuineIntel", "AuthenticAMD", ""):
        monkeypatch.setattr(blas, "_vendor", lambda v=vendor: v)
        chosen[vendor] = blas.prefers_onednn.__wrapped__()
    assert not chosen["GenuineIntel"]
    assert not chosen[""]
    assert chosen["AuthenticAMD"] == (
        torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    )


def test_openblas_has_one_thread_inside_and_its_own_outside(monkeypatch):
    monkeypatch.setattr(blas, "_mkl_is_slow", lambda: True)
    libraries = blas._openblas.__wrapped__()
    if not libraries:
        pytest.skip("this NumPy has no OpenBLAS")
    monkeypatch.setattr(blas, "_openblas", lambda: libraries)
    before = [library.get_num_threads() for library in libraries]
    with single_threaded_kernels(), single_threaded_kernels():
        assert all(library.get_num_threads() == 1 for library in libraries)
    assert [library.get_num_threads() for library in libraries] == before
