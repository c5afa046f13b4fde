"""What the demo measures: the accounting of codes, and the picture's parts."""

import math

import numpy as np
import pytest

from mixcoder.cli.compare import entropy_bits, judge, quantised_pca, square_error
from mixcoder.cli.picture import arrange, mosaic, one_of_each


@pytest.fixture(scope="module")
def rows():
    """Rows with a spectrum that falls off: 4, 2, 1, 1/2."""
    return np.random.default_rng(0).standard_normal((2000, 4)) * [4.0, 2.0, 1.0, 0.5] + 7.0


def test_the_entropy_of_a_code_lies_between_that_of_its_frequencies_and_the_flat_code(rows):
    code = np.minimum(np.abs(rows[:, :1]).astype(int), 15)
    share = np.bincount(code[:, 0]) / len(code)
    share = share[share > 0]
    true = -(share * np.log2(share)).sum()
    assert true <= entropy_bits(code, code, 16) < true + 0.02  # what the one added to each count costs
    assert entropy_bits(code, code, 16) < 4


def test_a_value_never_seen_costs_much_but_not_infinitely_much():
    seen, new = np.zeros((1000, 1), dtype=int), np.ones((10, 1), dtype=int)
    assert entropy_bits(seen, new, 2) == pytest.approx(math.log2(1002))


def test_columns_of_a_code_are_paid_for_one_by_one(rows):
    a, b = (rows[:, [0]] > 7).astype(int), (rows[:, [1]] > 8).astype(int)
    both = np.hstack([a, b])
    assert entropy_bits(both, both, 2) == pytest.approx(entropy_bits(a, a, 2) + entropy_bits(b, b, 2))


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantised_pca_keeps_to_its_bits_and_is_the_best_split(rows, bits):
    best = quantised_pca(rows, bits)
    q, b = len(best.axes), best.b
    assert q * b <= bits
    cells = best.encode(rows)
    assert cells.shape == (len(rows), q)
    assert cells.min() >= 0
    assert cells.max() <= 2**b - 1
    error = square_error(rows, best.decode(cells))
    assert error < square_error(rows, rows.mean(axis=0))
    if bits > 1:
        assert error <= square_error(
            rows, quantised_pca(rows, bits - 1).decode(quantised_pca(rows, bits - 1).encode(rows))
        )


def test_quantised_pca_errs_by_at_most_half_a_cell_in_its_axes(rows):
    coder = quantised_pca(rows, 8)
    inside = (rows - coder.mean) @ coder.axes.T
    decoded = (coder.decode(coder.encode(rows)) - coder.mean) @ coder.axes.T
    assert (np.abs(inside - decoded) <= coder.step / 2 * (1 + 1e-9)).all()
    far = coder.encode(np.full((1, 4), 1e9))
    assert far.max() <= 2**coder.b - 1


def test_judge_measures_both_halves(rows):
    result = judge(
        "sign",
        "1 of 2",
        2,
        1,
        lambda x: (x[:, :1] > 7).astype(int),
        lambda c: np.where(c, 9.0, 5.0),
        rows,
        rows,
    )
    assert (result.flat_bits, result.distortion) == (1.0, result.distortion_fit)
    assert result.entropy_bits == pytest.approx(1.0, abs=0.01)
    assert result.distortion == pytest.approx(square_error(rows, result.reconstruct(rows)))


def test_the_prototypes_are_all_arranged_and_neighbours_are_alike():
    line = np.random.default_rng(0).permutation(40)
    order = arrange(line[:, None].astype(float))
    assert sorted(order) == list(range(40))
    assert (np.abs(np.diff(line[order])) == 1).all()
    assert arrange(np.zeros((2, 3))).tolist() == [0, 1]


def test_a_mosaic_shows_every_pixel_of_every_image_once():
    images = np.arange(1.0, 5 * 12 + 1).reshape(5, 4, 3)
    tiles = mosaic(images, 2, 60.0)
    assert tiles.shape == (3 * 4 + 2, 2 * 3 + 1)
    shown = tiles[~np.isnan(tiles)]
    assert sorted(shown * 60) == pytest.approx(np.arange(1.0, 61.0))
    np.testing.assert_allclose(tiles[:4, :3] * 60, images[0])
    np.testing.assert_allclose(tiles[5:9, 4:] * 60, images[3])


def test_one_of_each_takes_every_label_before_it_takes_one_twice():
    labels = np.random.default_rng(0).integers(0, 10, 200)
    chosen = one_of_each(labels, 16)
    assert len(set(chosen)) == 16
    assert (np.diff(labels[chosen]) >= 0).all()
    assert np.bincount(labels[chosen], minlength=10).tolist() == [2] * 6 + [1] * 4
