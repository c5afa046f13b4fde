"""DECODERS, one family a file: what a component generates."""

from mixcoder.components.base import Family, Kernel, Params, PassSetting
from mixcoder.components.bernoulli import Bernoulli
from mixcoder.components.categorical import Categorical
from mixcoder.components.exponential import ExponentialFamily
from mixcoder.components.factor_analyzer import FactorAnalyzer
from mixcoder.components.gaussian import Gaussian
from mixcoder.components.gaussian_diagonal import GaussianDiagonal
from mixcoder.components.gaussian_full import GaussianFull
from mixcoder.components.gaussian_low_rank_tied import GaussianLowRankTied
from mixcoder.components.gaussian_spherical import GaussianSpherical
from mixcoder.components.gaussian_tied import GaussianTied
from mixcoder.components.gaussian_tied_diagonal import GaussianTiedDiagonal
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSpherical
from mixcoder.components.poisson import Poisson
from mixcoder.components.ppca import PPCA
from mixcoder.components.product import Product
from mixcoder.components.student_t import StudentT
from mixcoder.components.subspace import Subspace
from mixcoder.components.von_mises_fisher import VonMisesFisher

__all__ = [
    "PPCA",
    "Bernoulli",
    "Categorical",
    "ExponentialFamily",
    "FactorAnalyzer",
    "Family",
    "Gaussian",
    "GaussianDiagonal",
    "GaussianFull",
    "GaussianLowRankTied",
    "GaussianSpherical",
    "GaussianTied",
    "GaussianTiedDiagonal",
    "GaussianTiedSpherical",
    "Kernel",
    "Params",
    "PassSetting",
    "Poisson",
    "Product",
    "StudentT",
    "Subspace",
    "VonMisesFisher",
]
