"""``mixcoder restore``: photographs in files, restored as the library restores them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mixcoder as library
from mixcoder.sensing import EPLL, Blur


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A small mixture of patches in a file, fitted to one smooth random image."""
    image = smooth(np.random.default_rng(0), 60, 60)
    path = tmp_path_factory.mktemp("patches") / "patches.mixcoder"
    library.fit_patches([image], 3, patch_size=4, n_patches=800, max_iter=3).save(path)
    return path


@pytest.fixture
def patches(here, kept):
    """The mixture as patches.mixcoder, and what restores with it."""
    shutil.copy(kept, "patches.mixcoder")
    return EPLL.of(library.load("patches.mixcoder").model_)


def smooth(rng, height, width):
    values = rng.standard_normal((height, width)).cumsum(0).cumsum(1)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def scene(*shape):
    return smooth(np.random.default_rng(1), *shape)


def tensor(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))


def test_a_floating_image_is_denoised_as_the_library_does(ask, patches):
    np.save("in.npy", scene(12, 15))
    record = ask("restore in.npy --noise 0.1 -m patches.mixcoder -o out.npy")
    np.testing.assert_array_equal(np.load("out.npy"), patches.denoise(tensor(scene(12, 15)), 0.1).numpy())
    assert (record["task"], record["noise"], record["channels"]) == ("denoise", 0.1, 1)
    assert (record["height"], record["width"], record["out_height"], record["out_width"]) == (12, 15, 12, 15)
    assert (record["n_components"], record["patch_size"]) == (3, 4)


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("kind", ["png", "npy"])
def test_whole_numbers_have_their_range_and_noise_its_unit(mixcoder, patches, dtype, full, kind):
    pixels = np.rint(scene(12, 15) * full).astype(dtype)
    if kind == "png":
        Image.fromarray(pixels).save("in.png")
    else:
        np.save("in.npy", pixels)
    mixcoder(f"restore in.{kind} --noise {0.1 * full} -m patches.mixcoder -o out.{kind}")
    written = np.asarray(Image.open("out.png")) if kind == "png" else np.load("out.npy")
    expected = patches.denoise(tensor(pixels / full), 0.1).numpy().clip(0, 1) * full
    assert written.dtype == dtype
    assert np.abs(written - expected).max() <= 0.5 + 1e-3 * full / 255


def test_colours_are_restored_alike(mixcoder, patches):
    pixels = np.stack([np.rint(scene(12, 15) * top).astype(np.uint8) for top in (255, 200, 90)], 2)
    Image.fromarray(pixels).save("in.png")
    mixcoder("restore in.png --noise 20 -m patches.mixcoder -o out.png")
    written = np.asarray(Image.open("out.png"))
    expected = patches.denoise(tensor(pixels.transpose(2, 0, 1) / 255), 20 / 255).numpy().clip(0, 1) * 255
    assert np.abs(written - expected.transpose(1, 2, 0)).max() <= 0.501


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_holes_are_filled_and_the_known_kept(ask, patches, kind):
    known = np.random.default_rng(2).random((12, 15)) < 0.7
    image = scene(12, 15)
    np.save("in.npy", np.where(known, image, np.nan))
    if kind == "png":
        Image.fromarray((known * 255).astype(np.uint8)).save("mask.png")
    else:
        np.save("mask.npy", known)
    record = ask(f"restore in.npy --mask mask.{kind} -m patches.mixcoder -o out.npy")
    filled = np.load("out.npy")
    np.testing.assert_array_equal(filled[known], image[known])
    assert np.isfinite(filled).all()
    assert (record["task"], record["unknown"]) == ("inpaint", (~known).sum())


def test_blur_is_taken_away(ask, mixcoder, patches):
    image = scene(30, 33)
    kernel = Blur.gaussian(1.0, image.shape).kernel
    seen = torch.nn.functional.conv2d(tensor(image)[None, None], kernel.float()[None, None])[0, 0].numpy()
    np.save("in.npy", seen)
    np.save("kernel.npy", 7 * kernel.numpy())  # of any sum
    record = ask("restore in.npy --blur 1 --noise 0.001 -m patches.mixcoder -o a.npy")
    mixcoder("restore in.npy --kernel kernel.npy --noise 0.001 -m patches.mixcoder -o b.npy")
    a, b, clear = np.load("a.npy"), np.load("b.npy"), image[3:-3, 3:-3]
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.square(a - clear).mean() < 0.25 * np.square(seen - clear).mean()
    assert (record["task"], record["kernel"]) == ("deblur", [7, 7])


def test_a_small_image_becomes_large(ask, patches):
    image = scene(24, 30)
    small = image.reshape(12, 2, 15, 2).mean((1, 3))
    np.save("in.npy", small)
    record = ask("restore in.npy --factor 2 -m patches.mixcoder -o out.npy")
    large = np.load("out.npy")
    assert (record["task"], record["out_height"], record["out_width"]) == ("enlarge", 24, 30)
    np.testing.assert_allclose(large.reshape(12, 2, 15, 2).mean((1, 3)), small, atol=2e-3)
    assert np.square(large - image).mean() < np.square(small.repeat(2, 0).repeat(2, 1) - image).mean()


def test_the_summary_for_people(mixcoder, patches):
    Image.fromarray(np.full((12, 15), 90, np.uint8)).save("in.png")
    shown = mixcoder("restore in.png --noise 20 -m patches.mixcoder -o out.npy").stdout
    for words in ("12 x 15 pixels, grey", "noise 20", "4 x 4 pixels, 3 components", "out.npy"):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("in.npy", 2, "what is wrong with the image"),
        ("in.npy --noise 0", 2, "what is wrong with the image"),
        ("in.npy --noise -1", 2, "--noise"),
        ("in.npy --blur 0", 2, "--blur"),
        ("in.npy --noise nan", 2, "nan is not a finite number"),
        ("in.npy --noise inf", 2, "inf is not a finite number"),
        ("in.npy --blur nan", 2, "nan is not a finite number"),
        ("in.npy --factor 1", 2, "--factor"),
        ("in.npy --blur 1 --factor 2", 2, "--blur and --factor exclude each other"),
        ("in.npy --noise 0.1 -o out.jpg", 2, ".png, .npy"),
        ("in.jpg --noise 0.1", 2, ".png, .npy"),
        ("absent.png --noise 3", 3, "absent.png: no such file"),
        ("broken.png --noise 3", 3, "broken.png is not a whole PNG file"),
        ("cut.png --noise 3", 3, "cut.png is not a whole PNG file"),
        ("broken.npy --noise 3", 3, "broken.npy is not a whole NPY file"),
        ("objects.npy --noise 3", 3, "objects.npy is not a whole NPY file"),
        ("glass.png --noise 3", 3, "transparent"),
        ("line.npy --noise 0.1", 3, "(height, width, 3) was expected"),
        ("empty.npy --noise 0.1", 3, "(height, width, 3) was expected"),
        ("grey255.npy --noise 3", 3, "floating images go from 0 to 1"),
        ("long.npy --noise 3", 3, "int64"),
        ("holes.npy --noise 0.1", 3, "hide such pixels with --mask"),
        ("holes.npy --mask all.npy", 3, "where the mask says that they are known"),
        ("in.npy --mask small.npy", 3, "small.npy has 5 x 5 pixels, but in.npy has 12 x 15"),
        ("in.npy --mask none.npy", 3, "black everywhere"),
        ("in.npy --mask in.npy", 3, "holds 0 and 1 only"),
        ("in.npy --blur 3", 3, "wider than in.npy"),
        ("in.npy --kernel wide.npy", 3, "is larger than in.npy"),
        ("in.npy --kernel none.npy", 3, "add up to 0"),
        ("small.npy --noise 0.1 -m patches.mixcoder", 3, "uint8, uint16 or floating"),
        ("tiny.npy --noise 0.1", 3, "smaller than a patch"),
        ("in.npy --noise 0.1 -m absent.mixcoder", 5, "no such file"),
        ("in.npy --noise 0.1 -m means.mixcoder", 2, "no Gaussian mixture of square patches"),
        ("in.npy --noise 0.1 -m odd.mixcoder", 2, "no Gaussian mixture of square patches"),
    ],
)
def test_restore_refuses_in_one_sentence(mixcoder, patches, words, code, said):
    image, rng = scene(12, 15), np.random.default_rng(0)
    arrays = {
        "in": image,
        "line": image[0],
        "empty": image[:0],
        "grey255": 255 * image,
        "long": (255 * image).astype(np.int64),
        "holes": np.where(image > image.mean(), np.nan, image),
        "all": np.ones((12, 15), bool),
        "none": np.zeros((12, 15), bool),
        "small": np.ones((5, 5), bool),
        "tiny": image[:2, :2],
        "wide": np.ones((3, 16)),
        "objects": np.array([{}], dtype=object),
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array, allow_pickle=name == "objects")
    Image.fromarray(np.dstack([np.full((9, 9, 3), 90, np.uint8), np.eye(9, dtype=np.uint8)])).save(
        "glass.png"
    )
    Image.fromarray((255 * image).astype(np.uint8)).save("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:90])
    Path("broken.png").write_bytes(b"hello")
    Path("broken.npy").write_bytes(b"hello")
    library.Mixture("poisson", 1).fit(rng.poisson(3.0, (20, 4)).astype(float)).save("means.mixcoder")
    library.GaussianMixture(1).fit(rng.standard_normal((20, 2))).save("odd.mixcoder")
    model = "" if "-m" in words else "-m patches.mixcoder"
    out = "" if "-o" in words else "-o out.npy"
    assert said in mixcoder(f"restore {words} {model} {out}", code=code).stderr
    assert not list(Path().glob("out.*"))
