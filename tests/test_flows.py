"""The Prefect flow over a DVC graph, against a real Prefect server on its own SQLite."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from befa.errors import ConfigError
from pipelines.flows import plan

pytestmark = pytest.mark.xdist_group("flows")  # one server for all

ROOT = Path(__file__).parent.parent

GRAPH = """
stages:
  first:
    matrix: {item: [x, y]}
    cmd: python -c "print('making ${item.item}'); open('${item.item}.txt', 'w').write('${item.item}')"
    outs: ["${item.item}.txt"]
  second:
    cmd: python -c "print('joining'); open('both.txt', 'w').write(open('x.txt').read() + open('y.txt').read())"
    deps: [x.txt, y.txt]
    outs: [both.txt]
  broken:
    cmd: python -c "print('about to fail'); raise SystemExit(3)"
    deps: [both.txt]
    outs: [never.txt]
  after:
    cmd: python -c "print('must not run')"
    deps: [never.txt]
"""


@pytest.fixture
def project(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a running `prefect server start`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (home / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            yield _when_ready(process, f"http://127.0.0.1:{port}/api", home / "log")
        finally:
            process.terminate()


def _when_ready(process, address, log):
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return address
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"the server does not answer: {log.read_text()}")


def run(project, server, target):
    environment = {**os.environ, "PREFECT_API_URL": server, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "pipelines", "run", target]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)


def records(server, kind, **where):
    answer = httpx.post(f"{server}/{kind}/filter", json=where, timeout=30)
    answer.raise_for_status()
    return answer.json()


def flow_run(server, target, state):
    [found] = records(server, "flow_runs", flow_runs={"name": {"any_": [target]}, "state": {"type": {"any_": [state]}}})
    return found["id"]


def test_a_target_runs_stage_by_stage_with_its_logs(project, server):
    ran = run(project, server, "second")
    assert ran.returncode == 0, ran.stderr
    assert (project / "both.txt").read_text() == "xy"
    run_id = flow_run(server, "second", "COMPLETED")
    # Records reach the server in the background.
    for _ in range(60):
        tasks = records(server, "task_runs", flow_runs={"id": {"any_": [run_id]}})
        logs = [entry["message"] for entry in records(server, "logs", logs={"flow_run_id": {"any_": [run_id]}})]
        if len(tasks) == 3 and any("joining" in message for message in logs):
            break
        time.sleep(0.5)
    tasks.sort(key=lambda task: task["start_time"])
    assert [task["name"] for task in tasks] == ["first@x", "first@y", "second"]
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    for line in ("making x", "making y", "joining"):
        assert any(line in message for message in logs)

    again = run(project, server, "second")
    assert again.returncode == 0
    assert "0 of 3 stages" in again.stdout + again.stderr
    assert "making" not in again.stdout + again.stderr


def test_a_failing_stage_fails_the_flow(project, server):
    ran = run(project, server, "after")
    said = ran.stdout + ran.stderr
    assert ran.returncode == 1
    assert "error: stage broken failed; its own error stands in the log above" in ran.stderr
    assert "about to fail" in said
    assert "must not run" not in said
    assert flow_run(server, "after", "FAILED")
    # What was done before the failure is kept.
    assert (project / "both.txt").read_text() == "xy"


def test_an_unknown_target_is_an_error_with_the_nearest_name(project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(ConfigError, match=r"no stage 'secnd' in dvc\.yaml; did you mean 'second'\?"):
        plan("secnd")


def test_a_plan_holds_what_is_stale_and_what_comes_after(project, monkeypatch):
    monkeypatch.chdir(project)
    assert plan("first").stages == ["first@x", "first@y"]
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "second"], check=True)
    assert plan("second").stale == set()
    (project / "x.txt").write_text("changed")
    assert plan("second").stale == {"first@x", "second"}
    assert plan("second").stages == ["first@x", "first@y", "second"]
