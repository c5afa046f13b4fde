"""How much of each component lies along each axis of its plane."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from mixcoder.plot import _ask, _style


class SpectrumDisplay:
    r"""Variances along the axes of low rank components, the eigenvalues of :math:`W_k W_k'`, above their noise.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    spectra : ndarray, shape (n_components, n_latent)
        Falling, in squared units of the rows.
    noise : ndarray, shape (n_components,)
        Mean noise variance of a feature.
    weights : ndarray, shape (n_components,)

    Attributes
    ----------
    ax_, figure_
        Where it was drawn.
    lines_ : list of Line2D
    """

    def __init__(self, *, spectra: Any, noise: Any, weights: Any) -> None:
        self.spectra, self.noise, self.weights = np.asarray(spectra), np.asarray(noise), np.asarray(weights)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any = None, *, ax: Any = None) -> Self:
        """Draw the spectra of a fitted :class:`~mixcoder.PPCAMixture` or :class:`~mixcoder.FactorAnalyzerMixture`.

        Parameters
        ----------
        estimator : fitted mixture of linear models
        X : ignored
            Spectra need no rows.
        ax : matplotlib Axes, optional
        """
        del X
        _ask.require_autoencoder(estimator, cls.__name__)
        if not hasattr(estimator, "loadings_"):
            raise TypeError(
                f"{cls.__name__} draws a fitted PPCAMixture or FactorAnalyzerMixture, got {type(estimator).__name__}."
            )
        loadings = _ask.array(estimator.loadings_).astype(np.float64)
        noise = _ask.array(estimator.noise_variances_).astype(np.float64)
        display = cls(
            spectra=np.linalg.svd(loadings, compute_uv=False) ** 2,
            noise=noise if noise.ndim == 1 else noise.mean(1),
            weights=_ask.array(estimator.weights_),
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on given axes, or on new ones."""
        ax, self.figure_ = _style.axes_of(ax)
        k, q = self.spectra.shape
        axes = np.arange(1, q + 1)
        positive = self.spectra[self.spectra > 0]
        self.lines_: list[Any] = []
        for c in range(k):
            look = _style.look(c)
            name = f"{c}: weight {self.weights[c]:.2f}"
            self.lines_ += ax.plot(
                axes, self.spectra[c], color=look.color, marker=look.marker, linestyle=look.line, markersize=4,
                linewidth=1.2, label=name,
            )  # fmt: skip
            ax.plot(
                [q + 0.5, q + 0.9], [self.noise[c]] * 2, color=look.color, linestyle=look.line, linewidth=2
            )
        if len(positive) and positive.max() > 30 * min(positive.min(), self.noise.min()):
            ax.set_yscale("log")
        ax.set_xticks([*axes, q + 0.7], [*(str(a) for a in axes), "noise"])
        ax.set_xlabel("axis of the plane", fontsize=9)
        ax.set_ylabel("variance", fontsize=9)
        _style.tidy(ax)
        _style.legend(ax, k)
        self.ax_ = ax
        return self


__all__ = ["SpectrumDisplay"]
