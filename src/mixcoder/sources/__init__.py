"""ROWS: where the data live, and how to add over them."""

from mixcoder.sources.base import Block, Source, fold
from mixcoder.sources.blocked import BlockedSource
from mixcoder.sources.files import FileSource, open_blocks
from mixcoder.sources.tensors import TensorSource

__all__ = ["Block", "BlockedSource", "FileSource", "Source", "TensorSource", "fold", "open_blocks"]
