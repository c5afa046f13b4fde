"""``mixcoder demo``: every verb once, on real images, measured against k-means and PCA at the same code size."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mixcoder.cli import outputs
from mixcoder.cli.console import align, count, emit, number, progress
from mixcoder.cli.options import debug_option, force_option, json_option, quiet_option, seed_option
from mixcoder.errors import DegenerateFeatureWarning

__all__ = ["command"]

DIRECTORY = "mixcoder-demo"
MODEL, PICTURE = "model.mixcoder", "picture.png"

BITS = 6  # a code of 6 bits names one of 64 prototypes
SHOWN = 16  # test images in the picture


@click.command("demo", short_help="All of it, on real images.")
@click.option(
    "--data",
    type=click.Choice(["digits", "fashion-mnist"]),
    default="digits",
    show_default=True,
    help="Which images; the digits come with scikit-learn.",
)
@click.option(
    "--fashion-dir", metavar="DIR", help="Where Fashion-MNIST is (default: where its Debian package puts it)."
)
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    help=f"Where the model and the picture go (default: {DIRECTORY}, or the first free of {DIRECTORY}-2, -3, ...).",
)
@seed_option
@json_option
@force_option
@quiet_option
@debug_option
def command(
    data: str, fashion_dir: str | None, out: str | None, seed: int, as_json: bool, force: bool, quiet: bool
) -> None:
    """Fit a mixture to real images, encode and decode images held out, and compare with k-means and PCA.

    Saves the model and one picture. Nothing is overwritten without --force: without --out every run makes a directory
    of its own.
    """
    if fashion_dir is not None and data != "fashion-mnist":
        raise click.UsageError("--fashion-dir is for --data fashion-mnist.")
    if out is not None and Path(out).exists():  # heard before the imports, which take longer
        _claim_files(Path(out), force=force)

    from mixcoder.cli import images

    start = time.perf_counter()
    if data == "digits":
        pictures = images.digits(seed)
    else:
        pictures = images.fashion_mnist(fashion_dir or images.FASHION_DIRECTORY, seed)
    directory, made = _make_directory(out, force=force)
    try:
        model_path, picture_path = _claim_files(directory, force=force)
        record = _run(pictures, seed, model_path, picture_path, force=force, quiet=quiet)
    except BaseException:
        if made:
            _remove_if_empty(directory)
        raise
    record |= {
        "directory": click.format_filename(directory),
        "model": click.format_filename(directory / MODEL),
        "picture": click.format_filename(directory / PICTURE),
        "seed": seed,
        "seconds": time.perf_counter() - start,
    }
    emit("mixcoder.demo/1", record, _text(record), as_json=as_json)


def _run(
    pictures: Any, seed: int, model_path: Path, picture_path: Path, *, force: bool, quiet: bool
) -> dict[str, Any]:
    import numpy as np
    import sklearn.cluster

    import mixcoder
    from mixcoder.cli import compare

    fit, test = pictures.fit, pictures.test
    k = min(2**BITS, len(fit))
    their_k_means: Any = sklearn.cluster.KMeans  # whose annotations say that n_init is a str

    def prototypes(name: str, model: Any, rows: Callable[[Any], Any]) -> compare.Result:
        centres = np.asarray(rows(model), dtype=np.float64)
        return compare.judge(
            name,
            f"1 of {k}",
            k,
            1,
            lambda x: np.asarray(model.predict(x)).reshape(-1, 1).astype(np.int64),
            lambda code: centres[code[:, 0]],
            fit,
            test,
        )

    with warnings.catch_warnings(), progress("fitting", 4, quiet=quiet) as advance:
        # Pixels at the edge are blank in every image. That is true, and of no use to who wants to see a demo.
        warnings.simplefilter("ignore", DegenerateFeatureWarning)
        mixture = mixcoder.GaussianMixture(
            k, covariance_type="tied_spherical", n_init=pictures.starts, random_state=seed
        )
        mixture.fit(fit)
        results = [prototypes("mixture", mixture, lambda m: m.means_)]
        advance(1)
        k_means = mixcoder.KMeans(k, n_init=pictures.starts, random_state=seed).fit(fit)
        results.append(prototypes("k-means", k_means, lambda m: m.cluster_centers_))
        advance(1)
        theirs = their_k_means(k, n_init=pictures.starts, random_state=seed).fit(fit)
        results.append(prototypes("k-means of scikit-learn", theirs, lambda m: m.cluster_centers_))
        advance(1)
        pca = compare.quantised_pca(fit, BITS)
        q = len(pca.axes)
        code = f"{count(q, 'coefficient')} of {count(pca.b, 'bit')}"
        results.append(compare.judge("PCA", code, 2**pca.b, q, pca.encode, pca.decode, fit, test))
        advance(1)
    mean = fit.mean(axis=0, dtype=np.float64)
    nothing = compare.square_error(test, mean[None, :])

    with outputs.replace_atomically(model_path, force=force) as draft:
        mixture.save(draft)
    again = mixcoder.load(model_path)
    same = bool(np.array_equal(again.predict_proba(test), mixture.predict_proba(test)))
    if not same:
        raise RuntimeError("the model that was saved does not encode as the one that was loaded")
    with outputs.replace_atomically(picture_path, force=force) as draft:
        _draw(draft, pictures, again, results)
    return {
        "data": pictures.name,
        "images_fit": len(fit),
        "images_test": len(test),
        "height": pictures.height,
        "width": pictures.width,
        "components": k,
        "bits": BITS,
        "starts": pictures.starts,
        "distortion_of_mean": nothing,
        "methods": [
            {
                "name": result.name,
                "code": result.code,
                "flat_bits": result.flat_bits,
                "entropy_bits": result.entropy_bits,
                "distortion": result.distortion,
                "distortion_fit": result.distortion_fit,
                "share_of_variance": result.distortion / nothing,
            }
            for result in results
        ],
        "iterations": int(mixture.n_iter_),
        "stop_reason": str(mixture.stop_reason_),
        "mean_log_density": float(mixture.score(test)),
        "loaded_model_encodes_the_same": same,
    }


def _draw(path: Path, pictures: Any, mixture: Any, results: list[Any]) -> None:
    import numpy as np

    from mixcoder.cli import picture

    shape = (-1, pictures.height, pictures.width)
    originals = pictures.test[picture.one_of_each(pictures.labels, SHOWN)]
    means = np.asarray(mixture.means_, dtype=np.float64)
    rows = [("original", "not seen by any fit", originals.reshape(shape))]
    rows += [
        (
            result.name,
            f"{result.code}: error {number(result.distortion, 4)}",
            np.asarray(result.reconstruct(originals)).reshape(shape),
        )
        for result in results
    ]
    picture.draw(
        path,
        title=f"A mixture of {len(means)} components as an autoencoder",
        subtitle=f"{pictures.name}: fitted to {number(len(pictures.fit))} images of "
        f"{pictures.height} × {pictures.width} pixels, tested on {number(len(pictures.test))} others. "
        "Error: squared, summed over the pixels, mean over the test images.",
        prototypes=means[picture.arrange(means)].reshape(shape),
        prototypes_title=f"What each of the {len(means)} components generates",
        rows=rows,
        rows_title=f"Images held out, and what is left of them after a code of {BITS} bits",
        ink=pictures.ink,
    )


def _text(record: dict[str, Any]) -> list[str]:
    pixels = f"{record['height']} x {record['width']} pixels"
    table = [("", "code", "bits", "entropy bits", "squared error", "of variance")]
    table += [
        (
            method["name"],
            method["code"],
            f"{method['flat_bits']:g}",
            f"{method['entropy_bits']:.2f}",
            f"{method['distortion']:.4g}",
            f"{100 * method['share_of_variance']:.1f} %",
        )
        for method in record["methods"]
    ]
    table.append(("mean image", "nothing", "0", "0.00", f"{record['distortion_of_mean']:.4g}", "100.0 %"))
    starts = f"Best of {record['starts']} starts each" if record["starts"] > 1 else "One start each"
    to_fit = f"{count(record['images_fit'], 'image')} of {pixels} to fit"
    return [
        f"{record['data']}: {to_fit}, {number(record['images_test'])} held out",
        "",
        *align(table, right=(2, 3, 4, 5)),
        "",
        "Per image held out. bits: log2 of the number of codes; entropy bits: after an entropy coder that knows the",
        "frequencies of the codes; squared error: summed over the pixels. PCA: the split of the bits that is best on",
        f"the training images. {starts}; prototypes and axes are not counted.",
        "",
        *align(
            [
                ("mixture", f"{record['iterations']} iterations; stopped: {record['stop_reason']}"),
                ("log-density", f"{number(record['mean_log_density'], 5)} nats per image held out"),
                ("model", f"{record['model']} (loaded again: encodes the same)"),
                ("picture", str(record["picture"])),
                ("time", f"{record['seconds']:.1f} s"),
            ]
        ),
        "",
        f"Next: mixcoder inspect {record['model']}",
        f"      mixcoder sample {record['model']} -n 5 -o -",
    ]


def _make_directory(out: str | None, *, force: bool) -> tuple[Path, bool]:
    """The directory to write into, and whether it was made; without ``out`` the first free of mixcoder-demo, -2, ...

    With ``force`` it is mixcoder-demo, whatever is there.
    """
    if out is not None or force:
        directory = Path(out or DIRECTORY)
        made = not directory.exists()
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise click.UsageError(
                f"{click.format_filename(directory)} cannot be made: {error.strerror}."
            ) from error
        return directory, made
    attempt = 1
    while True:
        directory = Path(DIRECTORY if attempt == 1 else f"{DIRECTORY}-{attempt}")
        try:
            directory.mkdir()  # it makes one or fails: two runs at once get two directories
        except FileExistsError:
            attempt += 1
        else:
            return directory, True


def _claim_files(directory: Path, *, force: bool) -> tuple[Path, Path]:
    model, picture = (outputs.claim(str(directory / name), force=force) for name in (MODEL, PICTURE))
    return model, picture


def _remove_if_empty(directory: Path) -> None:
    """Leave nothing behind a run that failed before it wrote anything."""
    import contextlib

    with contextlib.suppress(OSError):
        directory.rmdir()
