"""The scripts in examples/, run small: each shows what its first lines say."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def example(name):
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_an_untrained_network_knows_more_of_images_than_least_norm():
    errors = example("deep_image_prior").run(side=16, share=0.4, n_steps=150)
    assert errors["deep image prior"] < 0.8 * errors["least squares of least norm"] < errors["one grey"]


def test_a_linear_uncertainty_autoencoder_is_pca():
    found = example("uncertainty_autoencoder").run(n_measurements=3, n_steps=500)
    least = found["least error of a linear code (PCA), closed form"]
    reached = found["linear encoder and decoder, by descent"]
    assert least * (1 - 1e-9) <= reached < 1.001 * least
    assert found["least cosine between the two subspaces"] > 0.99
    linear = found["test: one Gaussian behind PCA"]
    assert found["test: learned encoder, network as decoder"] < linear
    assert found["test: mixture behind PCA, exact posterior"] < linear


def test_few_learned_steps_recover_images():
    errors = example("deep_compressed_sensing").run(n_epochs=10)
    learned = errors["deep compressed sensing, 3 steps"]
    assert learned < 0.7 * errors["the mean image"]
    assert (
        errors["mixture, principal axes"] < errors["mixture, random measurements"] < errors["the mean image"]
    )


def test_every_example_is_run_here():
    text = Path(__file__).read_text(encoding="utf-8")
    names = [path.stem for path in FOLDER.glob("*.py")]
    assert len(names) == 3
    for name in names:
        assert f'example("{name}")' in text, name


@pytest.mark.parametrize("name", ["deep_image_prior", "uncertainty_autoencoder", "deep_compressed_sensing"])
def test_an_example_says_how_to_run_it_and_where_it_comes_from(name):
    said = example(name).__doc__
    assert f"python examples/{name}.py" in said
    assert "(20" in said  # the year of its paper
