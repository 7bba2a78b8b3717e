"""Tables of features."""

import os

import numpy as np
import pyarrow.parquet as pq
from etils import epath

from ssl_jax.cli import embed


def test_names_of_files_that_are_not_utf8_are_escaped_in_parquet(tmp_path):
    names = ["a.png", os.fsdecode(b"caf\xe9.png"), "grün.png"]
    columns = {"h": np.ones((3, 2), np.float32), "index": np.arange(3), "name": np.array(names)}
    embed._write_parquet(epath.Path(tmp_path) / "x.parquet", columns)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["name"].to_pylist() == ["a.png", r"caf\xe9.png", "grün.png"]
    assert table["h"].to_pylist() == [[1.0, 1.0]] * 3
    embed._write_npz(epath.Path(tmp_path) / "x.npz", columns)
    assert np.load(tmp_path / "x.npz")["name"].tolist() == names
