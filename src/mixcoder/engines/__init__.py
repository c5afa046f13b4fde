"""WHO adds: the engines that run the sums of a fit, chosen by context."""

from mixcoder.engines.base import Engine, fold
from mixcoder.engines.choice import current_engine, engine, is_chosen
from mixcoder.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine", "current_engine", "engine", "fold", "is_chosen"]
