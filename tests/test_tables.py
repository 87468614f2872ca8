"""Files are written whole, for all to read, and what is damaged is told in one line."""

import os
import stat
import subprocess
import sys

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


def test_what_a_kill_left_is_removed_and_what_another_process_writes_is_left_alone(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    path, others = tmp_path / "x[1].json", tmp_path / f"x[1].json.{os.getppid()}.part"
    (tmp_path / f"x[1].json.{ended.pid}.part").write_text("left")
    others.write_text("begun")
    tables.write_json(path, {})
    assert sorted(tmp_path.iterdir()) == sorted([path, others])
    assert (tables.read_json(path), others.read_text()) == ({}, "begun")


def test_two_processes_that_write_one_file_at_once_leave_it_whole(tmp_path):
    write = "import sys; from pathlib import Path; from befa import tables\n"
    write += "for _ in range(100): tables.write_json(Path(sys.argv[1]), [int(sys.argv[2])] * 20_000)"
    both = [subprocess.Popen([sys.executable, "-c", write, tmp_path / "x.json", str(n)]) for n in (1, 22)]
    while any(process.poll() is None for process in both):
        if (tmp_path / "x.json").exists():
            assert len(set(tables.read_json(tmp_path / "x.json"))) == 1
    assert [process.returncode for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


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
