"""What is believed of a mixture before its rows: conjugate priors, and what the rows make of them."""

from mixcoder.priors.mixture import MixturePosterior, MixturePrior
from mixcoder.priors.normal_wishart import NormalWishart, conjugate_prior
from mixcoder.priors.predictive import log_predictive
from mixcoder.priors.weights import Dirichlet, StickBreaking, WeightPrior, mean_weights

__all__ = [
    "Dirichlet",
    "MixturePosterior",
    "MixturePrior",
    "NormalWishart",
    "StickBreaking",
    "WeightPrior",
    "conjugate_prior",
    "log_predictive",
    "mean_weights",
]
