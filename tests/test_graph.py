"""What a flow reads from DVC before it runs."""

import json
import os

import pytest

from befa.errors import ConfigError
from pipelines.graph import plan
from tests.toy_graph import dvc, toy_project

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
    return toy_project(tmp_path, GRAPH)


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


def test_results_are_in_the_order_of_the_targets(project):
    assert plan(["second", "first"]).results == ("both.txt", "x.txt", "y.txt")
    assert plan(["first@y", "second", "first"]).results == ("y.txt", "both.txt", "x.txt")


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


@pytest.mark.parametrize("behind", ["md5: ", "path: ", "cmd: ", "hash: md5\n"])
def test_a_lock_file_that_is_cut_off_inside_a_value_is_half_written_too(project, behind):
    """It may be YAML that a lock file can hold; it is not to take the whole copy's place."""
    dvc("repro", "-q", "second")
    assert names(plan(["second"])) == []
    lock = project / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole.rstrip("\n"))  # an editor's doing, and whole
    assert names(plan(["second"])) == []
    assert lock.read_text() == whole.rstrip("\n")
    lock.write_text(whole)
    plan(["second"])
    lock.write_text(whole[: whole.rindex(behind) + len(behind) + 3 * (not behind.endswith("\n"))])
    assert names(plan(["second"])) == []
    assert lock.read_text() == whole


def test_what_trains_a_host_waits_for_its_tuning_although_dvc_knows_of_no_edge(project):
    stages = ["tune@hm-clip-bm3-befa", "train@hm-clip-bm3-none", "train@hm-clip-mgcn-befa", "sensitivity@hm-clip-bm3"]
    graph = "stages:\n  seed: {cmd: echo, deps: [seed.txt], outs: [s.txt]}\n"
    for kind in ("tune", "train", "sensitivity"):
        names_of = [stage.partition("@")[2] for stage in stages if stage.startswith(kind)]
        graph += f"  {kind}:\n    foreach: {json.dumps(names_of)}\n"
        graph += f"    do: {{cmd: echo, deps: [seed.txt], outs: ['{kind}-${{item}}.txt']}}\n"
    (project / "dvc.yaml").write_text(graph)
    after = {step.name: step.after for step in plan(stages).steps}
    assert after == {
        "tune@hm-clip-bm3-befa": set(),
        "train@hm-clip-mgcn-befa": set(),
        "train@hm-clip-bm3-none": {"tune@hm-clip-bm3-befa"},
        "sensitivity@hm-clip-bm3": {"tune@hm-clip-bm3-befa"},
    }
    assert list(plan(["train"]).steps[0].after) == []


def test_a_half_written_lock_file_without_a_copy_is_an_error_with_the_mend(project):
    (project / "dvc.lock").write_text("schema: '2.0'\nstages:\n  fir")
    with pytest.raises(ConfigError, match=r"cannot read the lock file in .*dvc\.lock; git checkout dvc\.lock"):
        plan(["second"])


def test_a_broken_graph_is_an_error(project):
    (project / "dvc.yaml").write_text("stages: [1]")
    with pytest.raises(ConfigError, match=r"DVC cannot read the graph .* mend dvc\.yaml"):
        plan(["second"])
