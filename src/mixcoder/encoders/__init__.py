"""ENCODERS, one rule a file: how a row picks its components."""

from mixcoder.encoders.annealed import Annealed
from mixcoder.encoders.argmax import Argmax
from mixcoder.encoders.base import Encoder
from mixcoder.encoders.multiplicative import Ascent, contraction_rate, multiplicative_ascent
from mixcoder.encoders.posterior import Posterior
from mixcoder.encoders.tempered import Tempered
from mixcoder.encoders.truncated import Truncated

__all__ = [
    "Annealed",
    "Argmax",
    "Ascent",
    "Encoder",
    "Posterior",
    "Tempered",
    "Truncated",
    "contraction_rate",
    "multiplicative_ascent",
]
