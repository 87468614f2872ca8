"""What a flow reads from DVC before it runs."""

import json
import os
import subprocess
import sys

import pytest

from befa.errors import ConfigError
from pipelines.graph import plan

GRAPH = """
stages:
  first:
    matrix: {item: [x, y]}
    cmd: echo ${item.item} > ${item.item}.txt
    deps: [seed.txt]
    outs: ["${item.item}.txt"]
  second:
    cmd: cat x.txt y.txt > both.txt
    deps: [x.txt, y.txt]
    outs: [both.txt]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init", "-q")
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "seed.txt").write_text("seed")
    return tmp_path


def dvc(*words):
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True)


def names(found):
    return [step.name for step in found.steps]


def test_an_unknown_target_is_an_error_with_the_nearest_name(project):
    with pytest.raises(ConfigError, match=r"no stage 'secnd' in dvc\.yaml; did you mean 'second'\?"):
        plan(["secnd"])


def test_a_plan_holds_what_is_stale_and_what_comes_after(project):
    assert names(plan(["first"])) == ["first@x", "first@y"]
    dvc("repro", "-q", "second")
    assert names(plan(["second"])) == []
    assert plan(["second"]).size == 3
    (project / "x.txt").write_text("changed")
    x, second = plan(["second"]).steps
    assert (x.name, x.after, x.outs, x.forced) == ("first@x", frozenset(), ("x.txt",), False)
    assert (second.name, second.after) == ("second", {"first@x"})
    assert plan(["second"]).results == ("both.txt",)


def test_forced_stages_and_what_comes_after_are_in_the_plan(project):
    dvc("repro", "-q", "second")
    forced = plan(["second"], forced=["first@y"])
    assert [(step.name, step.forced) for step in forced.steps] == [("first@y", True), ("second", False)]
    assert [step.forced for step in plan(["second"], force=True).steps] == [True, True, True]


def test_a_stage_that_another_process_has_in_hand_is_stale(project):
    dvc("repro", "-q", "second")
    writer = {str(project / "x.txt"): {"pid": os.getppid(), "cmd": "dvc repro first@x"}}
    (project / ".dvc/tmp/rwlock").write_text(json.dumps({"write": writer}))
    assert names(plan(["second"])) == ["first@x", "second"]


def test_a_half_written_lock_file_is_mended_from_its_last_whole_copy(project, caplog):
    dvc("repro", "-q", "second")
    assert names(plan(["second"])) == []
    lock = project / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole[: whole.index("hash: md5") + 4])
    assert names(plan(["second"])) == []
    assert lock.read_text() == whole
    assert "dvc.lock was half written" in caplog.text


def test_a_half_written_lock_file_without_a_copy_is_an_error_with_the_mend(project):
    (project / "dvc.lock").write_text("schema: '2.0'\nstages:\n  fir")
    with pytest.raises(ConfigError, match=r"cannot read the lock file in .*dvc\.lock; git checkout dvc\.lock"):
        plan(["second"])


def test_a_broken_graph_is_an_error(project):
    (project / "dvc.yaml").write_text("stages: [1]")
    with pytest.raises(ConfigError, match=r"DVC cannot read the graph .* mend dvc\.yaml"):
        plan(["second"])
