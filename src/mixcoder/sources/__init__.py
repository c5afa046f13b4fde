"""ROWS: where the data live, and how to add over them."""

from mixcoder.sources.base import Block, Source, fold
from mixcoder.sources.tensors import TensorSource

__all__ = ["Block", "Source", "TensorSource", "fold"]
