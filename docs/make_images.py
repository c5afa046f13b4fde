"""Draw the pictures of docs/images, each by the display that it shows.

python docs/make_images.py            # all of them
python docs/make_images.py corner     # one
"""

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
from sklearn.datasets import load_digits, load_iris

import mixcoder
from mixcoder import plot
from mixcoder.encoders import Tempered

HERE = Path(__file__).parent / "images"
LARGEST = 60_000  # bytes


def iris(k=3):
    frame = load_iris(as_frame=True).data
    return mixcoder.GaussianMixture(k, random_state=0, n_init=3).fit(frame), frame


def digits():
    return load_digits().data


def ellipses():
    return plot.EllipseDisplay.from_estimator(*iris())


def density():
    return plot.DensityDisplay.from_estimator(*iris(), feature="petal length (cm)")


def corner():
    return plot.CornerDisplay.from_estimator(*iris())


def history():
    rows = digits()
    encoder = Tempered(0.1, target_beta=1.0)
    return plot.HistoryDisplay.from_estimator(
        mixcoder.Mixture("gaussian_tied_spherical", 10, encoder=encoder, random_state=0, max_iter=300).fit(
            rows
        )
    )


def responsibilities():
    return plot.ResponsibilityDisplay.from_estimator(*iris())


def uncertainty():
    return plot.UncertaintyDisplay.from_estimator(*iris())


def prototypes():
    model = mixcoder.GaussianMixture(40, covariance_type="tied_spherical", random_state=0).fit(digits())
    return plot.PrototypeDisplay.from_estimator(model)


def reconstructions():
    model = mixcoder.PPCAMixture(10, 8, min_variance=0.1, random_state=0).fit(digits())
    return plot.ReconstructionDisplay.from_estimator(model, digits(), n_images=12)


def codebook():
    model = mixcoder.KMeans(64, random_state=0).fit(digits())
    return plot.CodebookDisplay.from_estimator(model, digits())


def rate_distortion():
    rows = digits()
    train, test = rows[::2], rows[1::2]
    sizes = (2, 4, 8, 16, 32, 64, 128)
    made = {
        "KMeans": [mixcoder.KMeans(k, random_state=0).fit(train) for k in sizes],
        "GaussianMixture, tied_spherical": [
            mixcoder.GaussianMixture(k, covariance_type="tied_spherical", random_state=0).fit(train)
            for k in sizes
        ],
    }
    return plot.RateDistortionDisplay.from_estimators(made, test)


def embedding():
    rows = digits()
    model = mixcoder.GaussianMixture(10, covariance_type="tied_spherical", random_state=0).fit(rows)
    return plot.EmbeddingDisplay.from_estimator(
        mixcoder.ParametricEmbedding(2, model=model, absorber=0.1, prior=0.02).fit(rows)
    )


def selection():
    grid = {"n_components": range(1, 9), "covariance_type": ["full", "tied", "diag", "spherical"]}
    chosen = mixcoder.select(mixcoder.GaussianMixture(n_init=5, random_state=0), load_iris().data, grid)
    return plot.SelectionDisplay.from_selection(chosen)


def spectrum():
    rows = digits()
    return plot.SpectrumDisplay.from_estimator(
        mixcoder.PPCAMixture(5, 8, min_variance=0.02, random_state=0).fit(rows)
    )


PICTURES = (
    ellipses,
    density,
    corner,
    history,
    responsibilities,
    uncertainty,
    prototypes,
    reconstructions,
    codebook,
    rate_distortion,
    embedding,
    selection,
    spectrum,
)


def main():
    mpl.use("agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    warnings.simplefilter("ignore", UserWarning)  # blank pixels of the digits, and the like
    for draw in PICTURES:
        if sys.argv[1:] and draw.__name__ not in sys.argv[1:]:
            continue
        path = HERE / f"{draw.__name__}.png"
        figure = draw().figure_
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
        # 64 colours are plenty for a drawing, and a third of the bytes.
        with Image.open(path) as image:
            image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
        size = path.stat().st_size
        print(f"{path.name}: {size} bytes")
        assert size < LARGEST, path


if __name__ == "__main__":
    main()
