"""What a source says of itself, and what is no source."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mixcoder
from mixcoder.errors import DataError, DataTypeError
from mixcoder.sources import TensorSource


def test_a_source_tells_its_kind_size_dtype_and_files(tmp_path):
    for day in range(3):
        np.save(tmp_path / f"{day}.npy", np.zeros((4, 2), np.float32))
    files = mixcoder.open_blocks(tmp_path)
    assert files.shape == (12, 2)
    assert repr(files) == f"FileSource(12 rows x 2 features, float32, {tmp_path / '0.npy'} and 2 more)"
    assert repr(TensorSource(torch.zeros(3, 2))) == "TensorSource(3 rows x 2 features, float32)"
    blocks = mixcoder.open_blocks([np.zeros((4, 2)), np.ones((1, 2))])
    assert blocks.shape == (5, 2)
    assert repr(blocks) == "IterableSource(5 rows x 2 features, float64)"


def test_a_table_in_memory_is_fitted_as_it_is():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.DataFrame({"height": [1.0, 2.0], "width": [0.0, 1.0]})
    with pytest.raises(DataTypeError, match="DataFrame is a table by itself, and is fitted as it is"):
        mixcoder.open_blocks(table)
    assert mixcoder.open_blocks([table.to_numpy()]).n_rows == 2


def test_a_damaged_file_is_told_in_one_sentence(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    arrow = pytest.importorskip("pyarrow")
    whole = tmp_path / "whole.parquet"
    parquet.write_table(arrow.table({"height": [1.0, 2.0]}), whole)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError) as told:
        mixcoder.open_blocks(cut)
    assert str(told.value).endswith(".")
    assert not str(told.value).endswith("..")
