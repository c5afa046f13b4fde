"""Mixtures of patches: the one that comes along, and the function that made it."""

import os

import numpy as np
import pytest
import torch

from mixcoder import fit_patches, load, load_patch_prior
from mixcoder.estimators.patches import _PRIOR, bundled_photographs, save_patch_prior
from mixcoder.sensing import EPLL


def psnr(estimate, image):
    return -10 * float((estimate - image).double().square().mean().log10())


def smooth(seed, side=40):
    values = np.random.default_rng(seed).standard_normal((side, side)).cumsum(0).cumsum(1)
    return (values - values.min()) / np.ptp(values)


def test_the_prior_that_comes_along_is_small_and_what_it_says():
    assert os.path.getsize(_PRIOR) < 1.5e6
    mixture = load_patch_prior()
    assert mixture.loadings_.shape == (100, 64, 48)
    assert float(mixture.weights_.sum()) == pytest.approx(1, abs=1e-6)
    restorer = EPLL.of(mixture.model_)
    assert (restorer.patch_size, restorer.removes_mean) == (8, True)
    # Patches less their mean, drawn from the mixture, have next to no mean.
    drawn, _ = mixture.set_params(random_state=0).sample(2000)
    assert np.square(drawn.mean(1)).mean() < 1e-2 * np.square(drawn).mean()


def test_the_prior_that_comes_along_knows_photographs_that_it_has_not_seen():
    data = pytest.importorskip("skimage.data")
    image = torch.as_tensor(data.camera()[100:292, 150:342] / 255.0).float()
    image = image.reshape(96, 2, 96, 2).mean((1, 3))
    noisy = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    restorer = EPLL.of(load_patch_prior().model_)
    gains = []
    for components in (1, None):
        one = restorer if components is None else EPLL.of(fit_patches(n_components=1, n_patches=5000).model_)
        gains.append(psnr(one.denoise(noisy, 0.1), image) - psnr(noisy, image))
    assert gains[1] > gains[0] + 1.5  # a single Gaussian of the same photographs: Wiener's filter


def test_it_can_be_made_again(tmp_path):
    """The file holds the fit, rounded to float32, and answers like it."""
    path = tmp_path / "patches.mixcoder"
    settings = {"n_components": 3, "n_latent": 8, "patch_size": 4, "n_patches": 900, "max_iter": 4}
    save_patch_prior(path, [smooth(0)], **settings)
    direct = fit_patches([smooth(0)], **settings)
    kept = load(path)
    assert kept.model_.params.means.dtype == torch.float32
    image = torch.as_tensor(smooth(1))
    torch.testing.assert_close(
        EPLL.of(kept.model_).denoise(image, 0.05),
        EPLL.of(direct.model_).denoise(image, 0.05),
        rtol=1e-3,
        atol=1e-3,
    )


def test_low_rank_patches_lose_next_to_nothing():
    """Axes along which patches hardly vary may all have the same variance."""
    common = {"n_components": 3, "patch_size": 4, "n_patches": 2000, "max_iter": 5}
    full, flat = fit_patches([smooth(0)], **common), fit_patches([smooth(0)], n_latent=10, **common)
    image = torch.as_tensor(smooth(1))
    noisy = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).double()
    errors = [psnr(EPLL.of(model.model_).denoise(noisy, 0.05), image) for model in (full, flat)]
    assert errors[1] > errors[0] - 0.3 > psnr(noisy, image)


def test_the_photographs_are_there():
    shapes = [photograph.shape for photograph in bundled_photographs()]
    assert shapes[:2] == [(427, 640, 3)] * 2
