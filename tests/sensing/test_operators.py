"""Operators: linear, with the adjoint that belongs to them, and clear about what they cannot take."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import torch

from mixcoder.sensing import (
    Blur,
    Composition,
    Downsampling,
    GaussianRandom,
    Matrix,
    Physics,
    Rows,
    SciPyOperator,
    as_operator,
    inpainting,
)

WEIGHTS = torch.arange(12, dtype=torch.float64).reshape(3, 4) - 5


def blur() -> SimpleNamespace:
    """Return the sums of neighbouring rows of an image, in deepinv's words."""

    def forward(x):
        return x[:, :, 1:] + x[:, :, :-1]

    def back(y):
        return torch.nn.functional.pad(y, (0, 0, 0, 1)) + torch.nn.functional.pad(y, (0, 0, 1, 0))

    return SimpleNamespace(A=forward, A_adjoint=back)


KERNEL = torch.tensor([[0.1, 0.5, 0.2], [0.0, -0.3, 0.7]], dtype=torch.float64)

OPERATORS = {
    "inpainting": inpainting(torch.tensor([[True, False, True], [False, True, True]]), n_channels=2),
    "blur": Blur(KERNEL, (2, 5, 4)),
    "gaussian blur": Blur.gaussian(1.0, (7, 7)),
    "downsampling": Downsampling(2, (3, 4, 6)),
    "composition": Composition((Rows.of([0, 3], 4), Downsampling(2, (4, 4)), Blur(KERNEL, (4, 4)))),
    "matrix": Matrix(WEIGHTS),
    "random": GaussianRandom(3, 5, seed=1),
    "rows": Rows.of([3, 0, 3], 4),
    "physics": Physics.of(blur(), (2, 3, 2)),
    "scipy": SciPyOperator(scipy.sparse.linalg.aslinearoperator(scipy.sparse.csr_array(WEIGHTS.numpy()))),
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_adjoint_belongs_to_apply_and_both_to_the_matrix(operator):
    generator = torch.Generator().manual_seed(0)
    assert operator.adjoint_test(generator) < 1e-14
    m, d = operator.shape
    matrix = operator.matrix()
    assert matrix.shape == (m, d) == (operator.n_measurements, operator.n_features)
    x = torch.randn(6, d, generator=generator, dtype=torch.float64)
    y = torch.randn(6, m, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(operator.apply(x), x @ matrix.T)
    torch.testing.assert_close(operator.adjoint(y), y @ matrix)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_dtype_comes_from_the_rows(operator):
    m, d = operator.shape
    assert operator.apply(torch.ones(2, d)).dtype == torch.float32
    assert operator.adjoint(torch.ones(2, m)).dtype == torch.float32
    assert operator.matrix(torch.ones(1)).dtype == torch.float32


def test_adjoint_test_finds_a_wrong_adjoint():
    physics = blur()
    physics.A_adjoint = lambda y: 2 * blur().A_adjoint(y)
    assert Physics.of(physics, (1, 3, 3)).adjoint_test(torch.Generator().manual_seed(0)) > 1e-2


def test_blur_is_a_circular_convolution():
    image = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blurred = Blur(KERNEL, (5, 6)).apply(image.reshape(1, -1)).reshape(5, 6)
    expected = torch.as_tensor(scipy.ndimage.convolve(image.numpy(), KERNEL.numpy(), mode="wrap"))
    torch.testing.assert_close(blurred, expected)


def test_a_composition_is_a_product_of_matrices():
    parts = OPERATORS["composition"].parts
    product = parts[0].matrix() @ parts[1].matrix() @ parts[2].matrix()
    torch.testing.assert_close(OPERATORS["composition"].matrix(), product)


def test_one_seed_gives_one_matrix():
    assert torch.equal(GaussianRandom(4, 6, seed=3).matrix(), GaussianRandom(4, 6, seed=3).matrix())
    assert not torch.equal(GaussianRandom(4, 6, seed=3).matrix(), GaussianRandom(4, 6, seed=4).matrix())
    assert torch.equal(GaussianRandom(4, 6, scale=0.5).matrix(), 0.5 * GaussianRandom(4, 6).matrix())


def test_as_operator_takes_matrices_and_linear_operators():
    linear = scipy.sparse.linalg.aslinearoperator(WEIGHTS.numpy())
    for value in (WEIGHTS, WEIGHTS.numpy(), WEIGHTS.tolist(), linear, Matrix(WEIGHTS)):
        torch.testing.assert_close(as_operator(value).matrix(), WEIGHTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matrix(torch.ones(3)), r"shape \(n_measurements, n_features\)"),
        (lambda: Matrix(torch.tensor([[1.0, torch.nan]])), "finite"),
        (lambda: Rows.of([0, 4], 4), r"0\.\.3, got 4"),
        (lambda: Rows(torch.tensor([True, False]), 2), "Rows.observed"),
        (lambda: GaussianRandom(0, 3), "at least one measurement"),
        (lambda: inpainting(torch.ones(2, 2)), r"bool of shape \(height, width\)"),
        (lambda: Blur(KERNEL, (1, 4)), r"larger than the image"),
        (lambda: Blur(KERNEL * torch.nan, (4, 4)), "finite"),
        (lambda: Blur.gaussian(0.0, (4, 4)), "std must be positive"),
        (lambda: Blur(KERNEL, (4,)), "height, width"),
        (lambda: Downsampling(2, (4, 5)), "multiples of factor=2"),
        (lambda: Composition(()), "at least one"),
        (lambda: Composition((Matrix(WEIGHTS), Matrix(WEIGHTS))), "sees 4 features cannot follow"),
        (lambda: as_operator(blur()), "Physics.of"),
        (lambda: as_operator("H"), "LinearOperator"),
        (lambda: as_operator(np.array([["a"]])), "LinearOperator"),
    ],
)
def test_bad_operators_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
