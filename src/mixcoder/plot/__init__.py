"""PICTURES of fitted models, after scikit-learn's displays: ``XDisplay.from_estimator(model, X)``, ``.plot(ax=...)``.

A display holds what it draws as plain arrays, so that it can be drawn again, elsewhere or otherwise. matplotlib is
imported when the first picture is drawn.
"""

from mixcoder.plot.codebook import CodebookDisplay
from mixcoder.plot.corner import CornerDisplay
from mixcoder.plot.density import DensityDisplay
from mixcoder.plot.ellipses import EllipseDisplay
from mixcoder.plot.embedding import EmbeddingDisplay
from mixcoder.plot.history import HistoryDisplay
from mixcoder.plot.prototypes import PrototypeDisplay
from mixcoder.plot.rate_distortion import RateDistortionDisplay
from mixcoder.plot.reconstructions import ReconstructionDisplay
from mixcoder.plot.responsibilities import ResponsibilityDisplay
from mixcoder.plot.selection import SelectionDisplay
from mixcoder.plot.spectrum import SpectrumDisplay
from mixcoder.plot.uncertainty import UncertaintyDisplay

__all__ = [
    "CodebookDisplay",
    "CornerDisplay",
    "DensityDisplay",
    "EllipseDisplay",
    "EmbeddingDisplay",
    "HistoryDisplay",
    "PrototypeDisplay",
    "RateDistortionDisplay",
    "ReconstructionDisplay",
    "ResponsibilityDisplay",
    "SelectionDisplay",
    "SpectrumDisplay",
    "UncertaintyDisplay",
]
