"""ENCODERS, one rule a file: how a row picks its components."""

from mixcoder.encoders.argmax import Argmax
from mixcoder.encoders.base import Encoder
from mixcoder.encoders.posterior import Posterior
from mixcoder.encoders.tempered import Tempered

__all__ = ["Argmax", "Encoder", "Posterior", "Tempered"]
