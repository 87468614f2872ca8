"""params.yaml and cells.yaml are changed in one place, and every other byte stays; more cells are listed."""

import multiprocessing
import shutil
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from befa import config
from befa.cell_names import LEADERS, listed
from befa.errors import ConfigError
from befa.paths import Layout
from pipelines import __main__ as commands
from pipelines import add_cells
from pipelines.params_file import change, flow

ROOT = Path(__file__).parent.parent
OURS, LISTS = ROOT / "params.yaml", ROOT / "pipelines/cells.yaml"
HOST = "hm-clip_small-bm3"
TUNED = {"optimizer": {"learning_rate": 0.0005}, "network": {"reg_weight": 1e-05, "layers": 2}}
SHOWN = b"{optimizer: {learning_rate: 0.0005}, network: {reg_weight: 0.00001, layers: 2}}"


@pytest.fixture
def params(tmp_path):
    """A copy of the project's own file, beside one of the lists."""
    (tmp_path / "pipelines").mkdir()
    shutil.copy(LISTS, tmp_path / "pipelines")
    return Path(shutil.copy(OURS, tmp_path))


@pytest.fixture
def lists(params):
    return params.parent / "pipelines/cells.yaml"


def written(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    return path


def test_nothing_but_the_value_changes(params):
    before = params.read_bytes()
    line = f"  {HOST}:".encode()
    assert before.count(line + b" {}\n") == 1
    change(params, {("tuned", HOST, "befa"): TUNED})
    assert params.read_bytes() == before.replace(line + b" {}\n", line + b"\n    befa: " + SHOWN + b"\n")
    assert config.read_params(params)["tuned"][HOST] == {"befa": TUNED}
    change(params, {("tuned", HOST, "none"): TUNED, ("tuned", HOST, "befa"): {}})
    expected = line + b"\n    befa: {}\n    none: " + SHOWN + b"\n"
    assert params.read_bytes() == before.replace(line + b" {}\n", expected)
    change(params, {("tuned", HOST): {}})
    assert config.read_params(params) == config.read_params(OURS)


def test_several_changes_are_made_at_once_and_lines_are_added_where_they_belong(lists):
    before = lists.read_bytes().splitlines()
    line = {"dataset": "hm", "encoder": "clip_small", "model": "bm3", "adapter": "new"}
    change(lists, {("cells", f"{HOST}-new"): line, ("controls", "other-data-bm3-new"): line})
    after = lists.read_bytes().splitlines()
    added = b"{dataset: hm, encoder: clip_small, model: bm3, adapter: new}"
    at = after.index(b"  hm-clip_small-bm3-new: " + added)
    assert b"  hm-clip_small-bm3-" in after[at - 1]
    assert b"  hm-clip_small-bm3-" not in after[at + 1]
    last = after.index(b"  other-data-bm3-new: " + added)
    assert after[last + 1] == b""  # the end of the block
    assert _without(after, at, last) == before


def _without(lines, *places):
    return [line for place, line in enumerate(lines) if place not in places]


def test_what_is_there_already_is_not_written_again(params):
    known = config.read_params(params)["tuned"][HOST]
    inode = params.stat().st_ino
    change(params, {("tuned", HOST): known})
    change(params, {})
    assert params.stat().st_ino == inode


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # block style, with what is above and below
        ("cells:\n  a:\n    b: 1\n    tuned:\n      x: {y: 1} # old\n\n# end\nz: 1\n",
         "cells:\n  a:\n    b: 1\n    tuned:\n      {x: 2} # old\n\n# end\nz: 1\n"),
        ("cells:\n  a: {b: 1}\n", "cells:\n  a: {b: 1, tuned: {x: 2}}\n"),  # none yet
        ("cells:\n  a:\n    b: 1 # word\n\nz: 1\n", "cells:\n  a:\n    b: 1 # word\n    tuned: {x: 2}\n\nz: 1\n"),
        ("cells: {a: {tuned: {}}}", "cells: {a: {tuned: {x: 2}}}"),  # no newline at the end
        ("cells: {} # none\nz: 1\n", "cells: # none\n  a: {tuned: {x: 2}}\nz: 1\n"),
        ("cells:\nz: 1\n", "cells:\n  a: {tuned: {x: 2}}\nz: 1\n"),
        ("cells: []\nz: 1\n", "cells:\n  a: {tuned: {x: 2}}\nz: 1\n"),
        ("cells:", "cells:\n  a: {tuned: {x: 2}}\n"),
        ("cells:\n  a: # empty\n  b: 1\n", "cells:\n  a: # empty\n    tuned: {x: 2}\n  b: 1\n"),
        ("cells:\n  a: null\nz: 1\n", "cells:\n  a:\n    tuned: {x: 2}\nz: 1\n"),
        ("z: 1\n", "z: 1\ncells: {a: {tuned: {x: 2}}}\n"),
        ("cells:\r\n  a: {tuned: {}}\r\n  'b': \"1\"\r\n", "cells:\r\n  a: {tuned: {x: 2}}\r\n  'b': \"1\"\r\n"),
        ("# 商品\ncells:\n  a: {tuned: {}} # 图\n", "# 商品\ncells:\n  a: {tuned: {x: 2}} # 图\n"),
    ],
)  # fmt: skip
def test_every_way_to_write_it(tmp_path, before, after):
    path = written(tmp_path, before)
    change(path, {("cells", "a", "tuned"): {"x": 2}})
    assert path.read_bytes().decode() == after


def test_a_value_that_another_place_shares_is_not_changed(tmp_path):
    text = "cells:\n  a: {tuned: &t {x: 1}}\n  b: {tuned: *t}\n"
    path = written(tmp_path, text)
    for name in ("a", "b"):
        with pytest.raises(ConfigError, match=rf"cells\.{name}\.tuned cannot be set .*; change it by hand"):
            change(path, {("cells", name, "tuned"): {"x": 2}})
    assert path.read_text() == text
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("text", ["cells: [a, b]\n", "cells: a\n", "cells:\n  a: 1\n"])
def test_what_is_no_block_is_not_overwritten(tmp_path, text):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"cells(\.a)? has no names with values.*; change it by hand"):
        change(path, {("cells", "a", "tuned"): {"x": 2}})
    assert path.read_text() == text


def test_a_link_and_the_rights_of_the_file_stay(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real = written(tmp_path / "elsewhere", "cells:\n  a: {tuned: {}}\n")
    real.chmod(0o640)
    link = tmp_path / "params.yaml"
    link.symlink_to(real)
    change(link, {("cells", "a", "tuned"): {"x": 2}})
    assert link.is_symlink()
    assert "x: 2" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_two_that_end_at_once_both_stand(params):
    names = [f"hm-clip_small-{model}" for model in ("lattice", "bm3", "freedom", "mgcn")]
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(len(names))

    def work(name):
        ready.wait()
        for value in range(2):
            change(params, {("tuned", name, "befa"): {"network": {"layers": value}}})

    processes = [fork.Process(target=work, args=(name,)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    after = config.read_params(params)["tuned"]
    assert [after[name]["befa"] for name in names] == [{"network": {"layers": 1}}] * 4


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e-05, "0.00001"),
        (4.0, "4.0"),
        (True, "true"),
        (None, "null"),
        ("released", "released"),
        ("true", '"true"'),
        ("a: b", '"a: b"'),
        ("1e3", '"1e3"'),
        ([1, 2], "[1, 2]"),
    ],
)
def test_values_in_one_line(tmp_path, value, shown):
    assert flow({"x": value}) == f"{{x: {shown}}}"
    path = written(tmp_path, "a: {b: {}}\n")
    change(path, {("a", "b"): {"x": value}})
    assert config.read_params(path)["a"]["b"]["x"] == value


def add(params, *arguments, **options):
    return add_cells.add(Layout(params.parent), *arguments, **options)


def test_cells_are_added_once_and_in_the_form_of_those_there(params, lists):
    before, known = lists.read_bytes().splitlines(), listed(config.read_params(lists))
    hosts = ("bm3", "lattice", "freedom", "mgcn")
    cells = [f"cells.demo-clip-{model}-{adapter}" for model in hosts for adapter in ("none", "befa")]
    assert add(params, "demo", "clip") == ["encodings.demo-clip", *cells]
    assert add(params, "demo", "clip") == []
    after = lists.read_bytes().splitlines()
    assert len(after) == len(before) + 9
    assert [line for line in after if line in before] == before
    shown = b"  demo-clip-bm3-befa: {dataset: demo, encoder: clip, model: bm3, adapter: befa}"
    assert after.count(shown) == 1
    assert listed(config.read_params(lists)).keys() - known.keys() == {cell.removeprefix("cells.") for cell in cells}
    assert config.read_params(lists)["encodings"]["demo-clip"]["kind"] == "open_clip"
    tuned = {name: config.read_params(path)["tuned"].keys() for name, path in (("after", params), ("before", OURS))}
    assert tuned["after"] - tuned["before"] == {f"demo-clip-{model}" for model in hosts}


def test_controls_are_listed_apart(params):
    names = tuple(LEADERS)
    added = add(params, "hm", "clip", ["vbpr"], ["none", "lora"], controls=True)
    expected = ["cells.hm-clip-vbpr-none", "cells.hm-clip-vbpr-lora"]
    assert added == expected + [f"controls.hm-clip-vbpr-{name}" for name in names]
    assert add(params, "demo", "clip", ["bm3"], ["constant_gate"])[1:] == ["controls.demo-clip-bm3-constant_gate"]
    with pytest.raises(ConfigError, match="bpr makes no content"):
        add(params, "hm", "clip", ["bpr"], ["constant_gate"])


def test_studies_are_listed_for_adapted_cells(params, lists):
    added = add(params, "demo", "clip", ["bm3"], ["none", "befa", "lora"], studies=True)
    befa, lora = "demo-clip-bm3-befa", "demo-clip-bm3-lora"
    assert {name for name in added if not name.startswith(("cells.", "encodings."))} == {
        f"{block}.{name}" for block in ("tune", "distributions", "attribute") for name in (befa, lora)
    } | {"sensitivities.demo-clip-bm3"}
    found = config.read_params(lists)
    host = {"dataset": "demo", "encoder": "clip", "model": "bm3"}
    assert found["sensitivities"]["demo-clip-bm3"] == host
    assert found["tune"][befa] == found["attribute"][befa] == {**host, "adapter": "befa"}
    assert add(params, "demo", "clip", ["bm3"], ["none", "befa", "lora"], studies=True) == []


@pytest.mark.parametrize(("dataset", "encoder"), [("demo", "imagebind"), ("microlens_titles", "clip")])
def test_heatmaps_are_not_listed_where_there_is_nothing_to_show(params, dataset, encoder):
    added = add(params, dataset, encoder, ["mgcn"], ["befa"], studies=True)
    assert f"tune.{dataset}-{encoder}-mgcn-befa" in added
    assert not any(name.startswith("attribute.") for name in added)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dmeo", "clip"), "unknown dataset 'dmeo'; did you mean 'demo'"),
        (("demo", "clop"), "unknown encoder 'clop'; did you mean 'clip'"),
        (("demo", "clip", ["bm33"]), "unknown model 'bm33'; did you mean 'bm3'"),
        (("demo", "clip", ["bm3"], ["beffa"]), "unknown adapter 'beffa'; did you mean 'befa'"),
    ],
)
def test_an_unknown_name_adds_nothing(params, lists, arguments, says):
    with pytest.raises(ConfigError, match=says):
        add(params, *arguments)
    assert params.read_bytes() == OURS.read_bytes()
    assert lists.read_bytes() == LISTS.read_bytes()


def test_the_command_says_what_it_added(params, monkeypatch):
    monkeypatch.chdir(params.parent)
    words = ["add-cells", "demo", "clip", "--model", "bm3", "--adapter", "befa", "--adapter", "lora"]
    shown = CliRunner().invoke(commands.app, words)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "added encodings.demo-clip",
        "added cells.demo-clip-bm3-befa",
        "added cells.demo-clip-bm3-lora",
    ]
    assert CliRunner().invoke(commands.app, words).stdout == "nothing to add: all of them are listed\n"
