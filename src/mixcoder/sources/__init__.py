"""ROWS: where the data live, and how to add over them."""

from mixcoder.engines import fold
from mixcoder.sources.base import Block, Source
from mixcoder.sources.blocked import BlockedSource, RowFunction, RowValues
from mixcoder.sources.dask import DaskSource, is_dask
from mixcoder.sources.files import FileSource
from mixcoder.sources.iterable import IterableSource
from mixcoder.sources.opening import open_blocks
from mixcoder.sources.tensors import TensorSource

__all__ = [
    "Block",
    "BlockedSource",
    "DaskSource",
    "FileSource",
    "IterableSource",
    "RowFunction",
    "RowValues",
    "Source",
    "TensorSource",
    "fold",
    "is_dask",
    "open_blocks",
]
