"""Maps from probabilities: how fast rows find their places, and how the maps compare with t-SNE and UMAP.

    python benchmarks/embedding.py                   # everything, into RESULTS.md (section "embedding")
    python benchmarks/embedding.py speed             # the first table only
    python benchmarks/embedding.py digits fashion    # maps of these data
    python benchmarks/embedding.py fashion --maps UMAP   # maps whose name contains a word; the other rows stay

Speed is the best of three, that of the fit one run. A map is judged by scikit-learn's trustworthiness (5 neighbours)
and by how well 10 neighbours in the map tell a row's class (five-fold cross-validation), both on the same rows for
every method. The mixture under our map sees no classes; the classifier does, and is marked. UMAP takes part where
umap-learn is installed. Fashion-MNIST is that of Debian's package dataset-fashion-mnist, or of the folder in
FASHION_MNIST.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import gzip
import importlib.util
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from results import TARGET, write_sections
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE, trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import mixcoder
from mixcoder.ops.embedding import EmbeddingKernel, encode_embedded

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
SUBSET = 10_000
JUDGED = 5_000  # rows that trustworthiness, quadratic in them, is asked of
SECONDS = 2.0


def log_probabilities(n: int, k: int, d: int = 20) -> np.ndarray:
    """Return log-probabilities of rows around k overlapping centres in d dimensions, shape (n, k)."""
    rng = np.random.default_rng(0)
    centres = 1.2 * rng.standard_normal((k, d))
    rows = centres[rng.integers(k, size=n)] + rng.standard_normal((n, d))
    return rows @ centres.T - 0.5 * (centres**2).sum(1)


def best_of(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the seconds of the fastest call."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return min(found)


def megabytes() -> float:
    """Return the largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def section_speed() -> list[str]:
    """Time 60 000 rows among 50 anchors in two axes."""
    x = log_probabilities(60_000, 50)
    mixcoder.ParametricEmbedding().fit(x[:500])  # imports
    before, began = megabytes(), time.perf_counter()
    model = mixcoder.ParametricEmbedding().fit(x)
    whole, extra = time.perf_counter() - began, megabytes() - before
    again = best_of(lambda: model.transform(x))
    targets = torch.from_numpy(x).softmax(1)
    anchors = torch.tensor(model.anchors_)
    task = "60 000 rows, 50 anchors, 2 axes, float64, every code to a gradient of 1e-8 or less"
    lines = [
        f"{task}; target: under {SECONDS:.0f} s, at most 6 Newton steps in the median.",
        "",
        "| what | s | largest gradient | Newton steps: median, largest |",
        "|---|---|---|---|",
    ]
    for name, kernel in (
        ("codes, prior 0.01", EmbeddingKernel(prior=0.01)),
        ("codes, constant absorber", EmbeddingKernel(absorber=1.0)),
        ("codes, growing absorber", EmbeddingKernel(absorber=1.0, alpha=1.0)),
    ):
        found = encode_embedded(targets, anchors, kernel, tol=1e-8)
        taken = best_of(lambda kernel=kernel: encode_embedded(targets, anchors, kernel, tol=1e-8))
        lines.append(
            f"| {name} | {taken:.2f} | {float(found.gradient_norm.max()):.1e} | "
            f"{float(found.n_steps.double().median()):.0f}, {int(found.n_steps.max())} |"
        )
    steps = model.n_newton_steps_
    fit = f"{whole:.2f} | {model.gradient_norm_:.1e} a row, in the anchors | {np.median(steps):.0f}, {steps.max()}"
    took = f"The fit takes {model.n_iter_} steps of the anchors over all rows, after those over some 2000"
    lines += [
        f"| `ParametricEmbedding().fit`: anchors and codes | {fit} |",
        f"| `transform` of the same rows | {again:.2f} | | |",
        "",
        f"{took}; peak of extra memory {extra:.0f} MB, beside {x.nbytes / 2**20:.0f} MB of probabilities.",
    ]
    return lines


def judged(places: np.ndarray, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return trustworthiness and the accuracy of ten neighbours in the map."""
    score = cross_val_score(KNeighborsClassifier(10), places, labels, cv=5).mean()
    return float(trustworthiness(x[:JUDGED], places[:JUDGED], n_neighbors=5)), float(score)


def contenders(k: int) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Return the maps, by name: functions of rows and labels."""

    def of_mixture(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        del labels
        mixture = mixcoder.GaussianMixture(k, covariance_type="diag", temperature=8.0, random_state=0).fit(x)
        return mixcoder.ParametricEmbedding(model=mixture).fit_transform(x)

    def of_classifier(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        classifier = LogisticRegression(max_iter=200).fit(x, labels)
        return mixcoder.ParametricEmbedding(model=classifier).fit_transform(x)

    def joint(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        del labels
        model = mixcoder.EmbeddedMixture("gaussian_diagonal", k, random_state=0, max_iter=50)
        return model.fit_transform(x)

    found: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        f"ParametricEmbedding of a mixture, K={k}": of_mixture,
        "ParametricEmbedding of a classifier (sees classes)": of_classifier,
        f"EmbeddedMixture, K={k}": joint,
        "PCA": lambda x, labels: PCA(2, random_state=0).fit_transform(x),
        "t-SNE (scikit-learn)": lambda x, labels: TSNE(2, random_state=0, init="pca").fit_transform(x),
    }
    if importlib.util.find_spec("umap") is not None:
        found["UMAP (umap-learn)"] = of_umap
    return found


def of_umap(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return UMAP's map with its defaults."""
    import umap

    del labels
    return np.asarray(umap.UMAP(random_state=0).fit_transform(x))


def table(name: str) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return rows, classes and a number of components; None where the data are not there."""
    if name == "digits":
        digits = load_digits()
        return digits.data / 16.0, digits.target, 30
    if not (FOLDER / "train-images-idx3-ubyte.gz").exists():
        return None
    with gzip.open(FOLDER / "train-images-idx3-ubyte.gz") as stream:
        x = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 784)[:SUBSET] / 255.0
    with gzip.open(FOLDER / "train-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8)[:SUBSET]
    # Fifty principal components, for all alike: what t-SNE and UMAP are usually given.
    return PCA(50, random_state=0).fit_transform(x), labels, 50


def map_rows(name: str, word: str) -> dict[str, str]:
    """Return a line of the table for each map of some data whose name contains a word."""
    found: dict[str, str] = {}
    data = table(name)
    if data is None:
        return {f"| {name} | all": f"| {name} | all | skipped: the files are not there | | |"}
    x, labels, k = data
    for method, make in contenders(k).items():
        if word.lower() not in method.lower():
            continue
        began = time.perf_counter()
        places = make(x, labels)
        taken = time.perf_counter() - began
        trust, accuracy = judged(places, x, labels)
        key = f"| {name} | {method}"
        found[key] = f"{key} | {trust:.3f} | {accuracy:.3f} | {taken:.1f} |"
        print(found[key], flush=True)
    if importlib.util.find_spec("umap") is None and not word:
        found[f"| {name} | UMAP"] = f"| {name} | UMAP: umap-learn is not installed | | | |"
    return found


def kept_rows() -> tuple[list[str], dict[str, str]]:
    """Return the lines on speed and those on maps of earlier runs."""
    parts = TARGET.read_text().split("<!-- section embedding -->\n")
    if len(parts) < 2:
        return [], {}
    lines = parts[1].split("<!-- section")[0].splitlines()
    maps = [line for line in lines if line.startswith(("| digits |", "| fashion |"))]
    first = lines.index(MAPS[0]) if MAPS[0] in lines else len(lines)
    return lines[2:first], {" |".join(line.split(" |")[:2]): line for line in maps}


MAPS = [
    "Maps in two axes (Fashion-MNIST: its first 10 000 training images, 50 principal components for every map):",
    "",
    "| data | map | trustworthiness | 10-NN accuracy | s |",
    "|---|---|---|---|---|",
]


def verdict(maps: dict[str, str]) -> list[str]:
    """Return in words where our maps of a mixture win and where they do not, from the lines of the table."""
    told = [
        "",
        "A new row gets its place in our maps by the rule that placed the others, in O(k e), and distance means",
    ]
    told[1] += " probability: exp(-d^2) is a component's share. What the other maps keep is who is near whom."
    for name in ("digits", "fashion"):
        found = {
            key.split(" | ")[1]: [float(cell) for cell in line.strip("| ").split(" | ")[2:]]
            for key, line in maps.items()
            if key.startswith(f"| {name} |") and line.strip("| ").split(" | ")[-1].replace(".", "").isdigit()
        }
        own = next(
            (row for key, row in found.items() if key.startswith("ParametricEmbedding of a mix")), None
        )
        if own is None:
            continue
        for other, row in found.items():
            if other.startswith(("t-SNE", "UMAP", "PCA")):
                told.append(
                    f"On {name}, against {other}: trustworthiness {own[0] - row[0]:+.3f}, accuracy "
                    f"{own[1] - row[1]:+.3f}, {own[2]:.1f} s for {row[2]:.1f} s."
                )
    return told


def main() -> None:
    """Measure what is asked for, and put it into RESULTS.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="speed, digits, fashion; all by default")
    parser.add_argument("--maps", default="", help="only maps whose name contains this")
    options = parser.parse_args()
    asked = options.what or ["speed", "digits", "fashion"]
    unknown = set(asked) - {"speed", "digits", "fashion"}
    if unknown:
        parser.error(f"expected speed, digits or fashion, got {sorted(unknown)}")
    warnings.simplefilter("ignore")
    speed, maps = kept_rows()
    if "speed" in asked:
        speed = [*section_speed(), ""]
        print("\n".join(speed))
    for name in ("digits", "fashion"):
        if name in asked:
            maps.update(map_rows(name, options.maps))
    rows = [maps[key] for key in sorted(maps, key=lambda key: key.split(" | ")[0])]
    shown = [*MAPS, *rows, *verdict(maps)] if rows else []
    text = ["## Embedded codes", "", *speed, *shown]
    write_sections({"embedding": "\n".join(text)})


if __name__ == "__main__":
    main()
