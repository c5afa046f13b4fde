"""EPLL: its two steps against dense linear algebra, and images that come back better than they went."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixcoder import GaussianMixture, fit_patches
from mixcoder.errors import DataError
from mixcoder.sensing import EPLL, Blur, Downsampling, GaussianPrior, RowMasks, Rows, posterior
from mixcoder.sensing.epll import ADAPTATIONS, RESTORING
from mixcoder.sensing.pixels import at_least_rounding
from mixcoder.sensing.quadratics import smooth_fill

P = 3


def prior_of(k: int = 2, channels: int = 1, seed: int = 0) -> GaussianPrior:
    rng = np.random.default_rng(seed)
    d = channels * P**2
    factors = 0.2 * rng.standard_normal((k, d, d))
    return GaussianPrior(
        torch.full((k,), -math.log(k), dtype=torch.float64),
        torch.zeros(d, dtype=torch.float64),
        torch.as_tensor(0.3 * rng.standard_normal((k, d))),
        torch.as_tensor(factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(d)),
    )


def random_image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def patch_matrices(height: int, width: int) -> list[torch.Tensor]:
    """Return the matrix of each patch, written down pixel by pixel."""
    pixels = torch.eye(height * width, dtype=torch.float64).reshape(height, width, -1)
    return [
        pixels[i : i + P, j : j + P].reshape(P * P, -1)
        for i in range(height - P + 1)
        for j in range(width - P + 1)
    ]


@pytest.mark.parametrize("removes_mean", [True, False])
@pytest.mark.parametrize("problem", ["denoise", "inpaint", "blur", "downsampling"])
def test_one_round_solves_both_steps(problem, removes_mean):
    prior, (h, w), noise, std = prior_of(), (6, 8), 0.1, 0.2
    image = random_image(h, w)
    restorer = EPLL(prior, P, removes_mean)
    operator = {
        "denoise": Rows.of(list(range(h * w)), h * w),
        "inpaint": Rows.of(list(range(0, h * w, 2)), h * w),
        "blur": Blur(torch.tensor([[0.2, 0.5, 0.3]]), (h, w)),
        "downsampling": Downsampling(2, (h, w)),
    }[problem]
    matrix = operator.matrix()
    y = operator.apply(image.reshape(1, -1))[0]
    beta, weight = 1 / std**2, P**2 / noise**2
    left, right = weight * matrix.T @ matrix, weight * matrix.T @ y
    for patch in patch_matrices(h, w):
        seen = patch @ image.flatten()
        centre = seen.mean() if removes_mean else 0.0
        # The hard estimate of a patch seen through the identity, by the library's exact posterior.
        z = posterior(prior, (seen - centre)[None], torch.eye(P * P), std**2).hard()[0][0] + centre
        left += beta * patch.T @ patch
        right += beta * patch.T @ z
    expected = torch.linalg.solve(left, right).reshape(h, w)
    actual = restorer.restore(y, operator, noise, image, stds=[std])
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("removes_mean", [True, False])
def test_denoised_pixels_are_means_of_posterior_means_weighted_by_their_certainty(removes_mean):
    prior, (h, w), noise = prior_of(3), (6, 8), 0.2
    image = random_image(h, w)
    top, bottom = torch.zeros(h * w, dtype=torch.float64), torch.zeros(h * w, dtype=torch.float64)
    for patch in patch_matrices(h, w):
        seen = patch @ image.flatten()
        centre = seen.mean() if removes_mean else torch.zeros(()).double()
        found = posterior(prior, (seen - centre)[None], torch.eye(P * P), noise**2)
        certainty = 1 / (found.variance.mean() + (noise**2 / P**2 if removes_mean else 0.0))
        top += certainty * patch.T @ (found.mean[0] + centre)
        bottom += certainty * patch.T @ torch.ones(P * P, dtype=torch.float64)
    actual = EPLL(prior, P, removes_mean).denoise(image, noise, n_adaptations=0)
    torch.testing.assert_close(actual, (top / bottom).reshape(h, w), rtol=1e-3, atol=1e-3)


def test_an_image_that_the_prior_has_not_seen_teaches_it():
    """Stripes are noise to a mixture of smooth patches, until it has met them."""
    clean = 0.5 + 0.3 * torch.tensor([1.0, -1.0]).repeat(20).expand(40, 40)
    noisy = clean + 0.2 * torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    line = torch.linspace(-0.3, 0.3, P, dtype=torch.float64)
    axes = torch.stack([line.repeat(P), line.repeat_interleave(P)], 1)
    smooth = GaussianPrior(
        torch.tensor([0.5, 0.5]).double().log(),
        torch.zeros(P * P).double(),
        torch.zeros(2, P * P).double(),
        torch.full((2, 1), 1e-2).double(),
        torch.stack([axes, 3 * axes]),
    )
    errors = [
        float((EPLL(smooth, P).denoise(noisy, 0.2, n_adaptations=n) - clean).square().mean()) for n in (0, 10)
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_filled_pixels_are_means_of_posterior_means_of_patches_given_what_they_show(noise):
    """One round, whose candidates are all components: by the library's exact posterior, a mask a patch."""
    (h, w), prior = (6, 7), prior_of(3)
    image = random_image(h, w)
    mask = torch.rand(h, w, generator=torch.Generator().manual_seed(1)) < 0.5
    known = image[mask]
    level, spread = known.mean(), known.var(correction=0)
    leveled = GaussianPrior(prior.log_weights, prior.shift, prior.means, prior.spreads + spread)
    least = 1e-4 * float(leveled.spreads.diagonal(dim1=1, dim2=2).mean())
    top, bottom = torch.zeros(h * w, dtype=torch.float64), torch.zeros(h * w, dtype=torch.float64)
    for patch in patch_matrices(h, w):
        seen = patch @ mask.flatten().double() > 0
        values = torch.where(seen, patch @ image.flatten() - level, 0.0)
        found = posterior(leveled, values[None], RowMasks(seen[None]), max(noise**2, least))
        certainty = 1 / found.variance[0].clamp_min(0.1 * least)
        top += patch.T @ (certainty * (found.mean[0] + level))
        bottom += patch.T @ certainty
    expected = (top / bottom).reshape(h, w)
    if noise == 0:
        expected = torch.where(mask, image, expected)
    actual = EPLL(prior, P).inpaint(image, mask, noise, stds=(0.1,))
    torch.testing.assert_close(actual, expected)


def test_known_pixels_without_noise_stay_as_they_are():
    image = random_image(8, 9).float()
    mask = torch.rand(8, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    hidden = torch.where(mask, image, torch.nan)
    filled = EPLL(prior_of(), P).inpaint(hidden, mask)
    assert torch.equal(filled[mask], image[mask])
    assert bool(filled.isfinite().all())
    assert filled.dtype == torch.float32


def test_channels_are_restored_alike_one_by_one():
    image = random_image(2, 7, 8)
    restorer = EPLL(prior_of(), P)
    # Not adapted: else each channel teaches the mixture what it knows of the others.
    together = restorer.denoise(image, 0.2, n_adaptations=0)
    for channel, alone in zip(together, image, strict=True):
        torch.testing.assert_close(channel, restorer.denoise(alone, 0.2, n_adaptations=0))


def test_edges_that_are_unknown_are_restored_with_the_image():
    """One round with unknown edges is the dense solution of the larger image of which the blurred one is the middle."""
    prior, noise, std, (h, w) = prior_of(), 0.1, 0.2, (7, 8)
    kernel = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.0, 0.2]], dtype=torch.float64)
    restorer, image = EPLL(prior, P), random_image(h, w)
    start = torch.nn.functional.pad(image[None], (1, 2, 0, 1), mode="replicate")[0]
    matrix = torch.zeros(h, w, h + 1, w + 3, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            matrix[i, j, i : i + 2, j : j + 4] = kernel.flip(0, 1)
    matrix = matrix.reshape(h * w, -1)
    beta, weight = 1 / std**2, P**2 / noise**2
    left, right = weight * matrix.T @ matrix, weight * matrix.T @ image.flatten()
    for patch in patch_matrices(*start.shape):
        seen = patch @ start.flatten()
        centred = seen - seen.mean()
        z = posterior(prior, centred[None], torch.eye(P * P), std**2).hard()[0][0] + seen.mean()
        left += beta * patch.T @ patch
        right += beta * patch.T @ z
    expected = torch.linalg.solve(left, right).reshape(start.shape)[:h, 1 : 1 + w]
    actual = restorer.deblur(image, kernel, noise, edges="unknown", stds=[std])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="edges must be"):
        restorer.deblur(image, kernel, noise, edges="mirror")


def test_rounds_are_told():
    told: list[tuple[int, int]] = []
    EPLL(prior_of(), P).denoise(random_image(7, 8), 0.2, on_round=lambda *done: told.append(done))
    assert told == [(i, ADAPTATIONS + 1) for i in range(1, ADAPTATIONS + 2)]
    told.clear()
    EPLL(prior_of(), P).super_resolve(random_image(4, 4), 2, on_round=lambda *done: told.append(done))
    assert told == [(i, len(RESTORING)) for i in range(1, len(RESTORING) + 1)]


@pytest.mark.parametrize("channels", [1, 3])
def test_whether_patches_have_a_level_is_seen_from_the_mixture(channels):
    """Patches that came whole are restored whole, those that came less their means are restored less their means."""
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((500, channels, 1)) + 0.3 * rng.standard_normal((500, channels, P * P))
    image = random_image(channels, 8, 8)
    for removes in (True, False):
        rows = patches - patches.mean(2, keepdims=True) if removes else patches
        model = GaussianMixture(2, random_state=0, reg_covar=1e-6).fit(rows.reshape(500, -1)).model_
        restorer = EPLL.of(model)
        assert (restorer.patch_size, restorer.removes_mean) == (P, removes)
        torch.testing.assert_close(
            restorer.denoise(image, 0.1), EPLL.of(model, P, removes_mean=removes).denoise(image, 0.1)
        )


def test_patches_of_several_channels():
    restored = EPLL(prior_of(channels=2), P).denoise(random_image(2, 7, 8), 0.2)
    assert restored.shape == (2, 7, 8)
    with pytest.raises(DataError, match="2 channels"):
        EPLL(prior_of(channels=2), P).denoise(random_image(7, 8), 0.2)


def test_a_level_of_grey_changes_nothing_but_itself():
    """The mean of a patch is taken off and put back, so that a constant added to the image comes out again."""
    image, restorer = random_image(9, 9), EPLL(prior_of(), P)
    torch.testing.assert_close(restorer.denoise(image + 5, 0.2), restorer.denoise(image, 0.2) + 5)


def test_blocks_of_patches_change_nothing(monkeypatch):
    image, restorer = random_image(9, 9), EPLL(prior_of(), P)
    whole = restorer.denoise(image, 0.2)
    monkeypatch.setattr("mixcoder.sensing.epll._BLOCK", 5)
    torch.testing.assert_close(restorer.denoise(image, 0.2), whole)


def test_smooth_fill_is_harmonic_where_nothing_is_known():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = (0.3 * rows - 0.2 * columns).double()
    mask = torch.zeros(6, 7, dtype=torch.bool)
    mask[0], mask[-1], mask[:, 0], mask[:, -1] = True, True, True, True
    torch.testing.assert_close(smooth_fill(torch.where(mask, plane, 9.0), mask), plane, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def photograph():
    """Return a test image, half the size, and a small prior from another one."""
    data = pytest.importorskip("skimage.data")
    crop = torch.as_tensor(data.camera()[100:292, 150:342] / 255.0).float()
    image = crop.reshape(96, 2, 96, 2).mean((1, 3))
    mixture = fit_patches([data.astronaut()], 10, patch_size=6, n_patches=8000, max_iter=6)
    return image, EPLL.of(mixture.model_)


def psnr(estimate, image):
    return -10 * float((estimate - image).square().mean().log10())


def test_photographs_come_back_better(photograph):
    image, restorer = photograph
    generator = torch.Generator().manual_seed(0)
    noisy = image + 0.1 * torch.randn(image.shape, generator=generator)
    assert psnr(restorer.denoise(noisy, 0.1), image) > psnr(noisy, image) + 5
    mask = torch.rand(image.shape, generator=generator) < 0.5
    assert psnr(restorer.inpaint(image, mask), image) > psnr(smooth_fill(image, mask), image) + 0.5
    blur = Blur.gaussian(1.2, tuple(image.shape))
    blurred = blur.apply(image.reshape(1, -1)).reshape(image.shape)
    blurred = blurred + 0.01 * torch.randn(image.shape, generator=generator)
    assert psnr(restorer.deblur(blurred, blur.kernel, 0.01), image) > psnr(blurred, image) + 1
    small = Downsampling(2, tuple(image.shape)).apply(image.reshape(1, -1)).reshape(48, 48)
    bicubic = torch.nn.functional.interpolate(small[None, None], scale_factor=2.0, mode="bicubic")[0, 0]
    assert psnr(restorer.super_resolve(small, 2), image) > psnr(bicubic, image) + 0.5


def test_a_patch_prior_says_what_it_cannot_take():
    with pytest.raises(DataError, match="at least 8 pixels"):
        fit_patches([np.zeros((4, 9))])
    with pytest.raises(DataError, match="finite"):
        fit_patches([np.full((9, 9), np.nan)])
    with pytest.raises(DataError, match="There must be images"):
        fit_patches([])


def test_bad_images_are_named():
    restorer, image = EPLL(prior_of(), P), random_image(6, 6)
    with pytest.raises(ValueError, match="multiple of patch_size"):
        EPLL(prior_of(), 4)
    with pytest.raises(ValueError, match="noise_std must be positive"):
        restorer.denoise(image, 0.0)
    with pytest.raises(DataError, match="smaller than a patch"):
        restorer.denoise(image[:2], 0.1)
    with pytest.raises(DataError, match="height, width"):
        restorer.denoise(image[0], 0.1)
    with pytest.raises(DataError, match="NaN or infinity; inpaint"):
        restorer.denoise(image * torch.nan, 0.1)
    with pytest.raises(DataError, match="No pixel is known"):
        restorer.inpaint(image, torch.zeros(6, 6, dtype=torch.bool))
    with pytest.raises(DataError, match=r"bool tensor of shape .6, 6.*float32"):
        restorer.inpaint(image, torch.ones(6, 6))
    with pytest.raises(DataError, match=r"bool tensor of shape .6, 6.*\(6, 7\)"):
        restorer.inpaint(image, torch.ones(6, 7, dtype=torch.bool))
    with pytest.raises(DataError, match=r"bool tensor.*list"):
        restorer.inpaint(image, [[True]])
    with pytest.raises(DataError, match="NaN or infinity"):
        restorer.inpaint(image * torch.nan, torch.ones(6, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="stds must be positive"):
        restorer.inpaint(image, torch.ones(6, 6, dtype=torch.bool), stds=())
    with pytest.raises(ValueError, match="strength must be positive"):
        restorer.denoise(image, 0.1, strength=0.0)
    with pytest.raises(ValueError, match="n_adaptations non-negative"):
        restorer.denoise(image, 0.1, n_adaptations=-1)
    with pytest.raises(TypeError, match=r"torch\.Tensor, got ndarray"):
        restorer.denoise(image.numpy(), 0.1)
    operator = Rows.of([0, 1], 36)
    with pytest.raises(DataError, match=r"expected \(3, 36\)"):
        restorer.restore(torch.zeros(3), operator, 0.1, image)
    with pytest.raises(DataError, match="y contains NaN"):
        restorer.restore(torch.full((2,), torch.nan), operator, 0.1, image)
    with pytest.raises(ValueError, match="noise_std must be non-negative"):
        restorer.restore(torch.zeros(2), operator, -1.0, image)
    with pytest.raises(ValueError, match="stds must be positive"):
        restorer.restore(torch.zeros(2), operator, 0.1, image, stds=[])
    one = GaussianMixture.from_parameters([1.0], [[0.0] * 9], [0.1], "spherical")
    assert EPLL.of(one.model_).denoise(image, 0.1).shape == (6, 6)
    with pytest.raises(DataError, match=r"y has shape \(6, 6\), expected \(n_measurements,\).*flatten"):
        restorer.restore(image, Rows.of(list(range(36)), 36), 0.1, image)
    with pytest.raises(ValueError, match="other than zero"):
        restorer.deblur(image, np.zeros((3, 3)), 0.1)
    with pytest.raises(TypeError, match=r"factor must be an integer, got 2\.0"):
        restorer.super_resolve(image, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="factor must be at least 1, got 0"):
        restorer.super_resolve(image, 0)


@pytest.mark.parametrize("patch_size", [None, 1])
def test_only_patches_in_grey_or_in_colour_are_told_from_their_features(patch_size):
    odd = GaussianMixture.from_parameters([1.0], np.zeros((1, 7)), np.eye(7)[None])
    with pytest.raises(ValueError, match="7 features, expected"):
        EPLL.of(odd, patch_size)
    assert EPLL(odd, 1).patches.channels == 7  # type: ignore[arg-type]


def test_rounding_counts_as_noise(photograph):
    image, restorer = photograph
    kernel = Blur.gaussian(1.5, tuple(image.shape)).kernel
    blurred = Blur(kernel, tuple(image.shape)).apply(image.reshape(1, -1)).reshape(image.shape)
    rounded = (255 * blurred).round() / 255
    step = 1 / (255 * 12**0.5)
    restored = restorer.deblur(rounded, kernel.numpy(), 0.0)
    torch.testing.assert_close(restored, restorer.deblur(rounded, kernel, step), rtol=0, atol=0)
    assert psnr(restored, image) > psnr(rounded, image) + 3
    blind = restorer.restore(rounded.flatten(), Blur(kernel, tuple(image.shape)), 0.0, rounded)
    assert psnr(restored, image) > psnr(blind, image) + 3
    # Numbers from 0 to 255 are rounded to ones; what was not rounded keeps the noise it is said to have.
    assert at_least_rounding(0.0, 255 * rounded) == pytest.approx(255 * step)
    assert at_least_rounding(0.0, blurred) == 0.0
    assert at_least_rounding(0.1, rounded) == 0.1
