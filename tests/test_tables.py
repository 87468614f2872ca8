"""Files are written whole, for all to read, and what is damaged is told in one line."""

import os
import stat

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from befa import tables
from befa.cells import Cell
from befa.errors import ConfigError, DataError


def test_a_file_has_the_rights_that_the_user_gives_whatever_library_writes_it(tmp_path):
    before = os.umask(0o027)
    try:
        with tables.whole(tmp_path / "x.safetensors") as part:
            save_file({"x": torch.zeros(2)}, part)
        tables.write_json(tmp_path / "x.json", {})
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_damaged_page_of_a_table_is_told(tmp_path):
    path = tmp_path / "x.parquet"
    tables.write_table(path, pa.table({"x": np.random.default_rng(1).random(20_000)}))
    data = bytearray(path.read_bytes())
    data[20:5_000] = bytes(4_980)  # the footer is whole
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"not a readable Parquet file .*x\.parquet; run its stage again"):
        tables.read_table(path)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"{", b""])
def test_json_that_is_none_is_told(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(DataError, match="not valid JSON"):
        tables.read_json(tmp_path / "x.json")


@pytest.mark.parametrize("value", [{}, [1], "cell", {"model": "bm3"}, {"model": "bm3", "adapter": "befa"}])
def test_a_configuration_that_is_none_names_its_file(tmp_path, value):
    tables.write_json(tmp_path / "config.json", value)
    with pytest.raises((DataError, ConfigError), match=r"config\.json"):
        Cell.read(tmp_path / "config.json")
