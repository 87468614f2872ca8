"""The Prefect flow over a DVC graph of trivial stages, against a real Prefect server on its own SQLite."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prefect.exceptions import ParameterTypeError
from ruamel.yaml import YAML

from befa import downloads
from befa.errors import DataError
from befa.sources import kaggle_client
from pipelines import artifacts, flows, graph, tasks
from tests.processes import processes_in
from tests.toy_graph import toy_project

pytestmark = pytest.mark.xdist_group("flows")  # one server for all

ROOT = Path(__file__).parent.parent
INTERRUPTED = "error: interrupted; the same command goes on where it was"

# Every stage writes its name to `runs`, which DVC does not know, so that its runs can be counted. `first` and `train`
# go on for as long as the file `hold` is there.
GRAPH = """
stages:
  first:
    matrix: {item: [x, y]}
    cmd: echo $DVC_STAGE >> runs; echo making ${item.item}; while [ -e hold ]; do sleep 0.1; done;
      head -c 4 seed.txt > ${item.item}.txt
    deps: [seed.txt]
    outs: ["${item.item}.txt"]
  second:
    cmd: echo $DVC_STAGE >> runs; echo joining; cat x.txt y.txt > both.txt
    deps: [x.txt, y.txt]
    outs: [both.txt]
  broken:
    cmd: echo $DVC_STAGE >> runs; echo about to fail; exit 3
    deps: [x.txt]
    outs: [never.txt]
  after:
    cmd: echo must not run
    deps: [never.txt, both.txt]
  train:
    matrix: {cell: [a, b]}
    cmd: mkdir gpu && echo $DVC_STAGE >> runs && sleep 1 && rmdir gpu && echo ${item.cell} > ${item.cell}.txt
    deps: [seed.txt]
    outs: ["${item.cell}.txt"]
  download:
    cmd: >-
      echo $DVC_STAGE >> runs; [ $(wc -l < runs) -ge 2 ] && echo raw > raw.txt ||
      { echo "error: no connection in http://x; run again, it goes on where it stopped"; exit 1; }
    deps: [seed.txt]
    outs: [raw.txt]
  media:
    cmd: >-
      echo $DVC_STAGE >> runs; echo "error: credentials are needed (401) in http://x; put them there"; exit 1
    deps: [seed.txt]
  encode_images:
    matrix: {cell: [toy-clip]}
    cmd: mkdir -p data/features/toy/clip; echo "encode images, 1 of 4, 0.1/s"; cp coverage.json
      data/features/toy/clip/image.coverage.json
    deps: [coverage.json]
    metrics: [data/features/toy/clip/image.coverage.json]
  encode_texts:
    matrix: {cell: [toy-clip]}
    cmd: cp seed.txt text.txt
    deps: [seed.txt]
    outs: [text.txt]
  filter:
    matrix: {dataset: [toy]}
    cmd: mkdir -p data/filtered/toy; cp stats.json data/filtered/toy/stats.json
    deps: [stats.json]
    metrics: [data/filtered/toy/stats.json]
"""


@pytest.fixture
def project(tmp_path):
    return toy_project(tmp_path, GRAPH)


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


def start(project, server, *words):
    """The flow in the background; its output goes to the file `log`, and its session is its own."""
    environment = {**os.environ, "PREFECT_API_URL": server, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "pipelines", "run", *words]
    log = (project / "log").open("a")
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True)
    STARTED.append(process)
    return process


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _nothing_goes_on_after_a_test():
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    STARTED.clear()


def run(project, server, *words):
    """Exit code and output of a flow."""
    code = start(project, server, *words).wait(timeout=200)
    said = (project / "log").read_text()
    (project / "log").unlink()
    return code, said


def runs(project):
    path = project / "runs"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def until(condition, seconds=60):
    for _ in range(seconds * 10):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never came true")


def records(server, kind, **where):
    answer = httpx.post(f"{server}/{kind}/filter", json=where, timeout=30)
    answer.raise_for_status()
    return answer.json()


def flow_run(server, target, state):
    [found] = records(server, "flow_runs", flow_runs={"name": {"any_": [target]}, "state": {"type": {"any_": [state]}}})
    return found["id"]


def stages_of(project):
    """Names of the stages in the lock file, which must be whole."""
    return set(YAML(typ="safe").load(project / "dvc.lock")["stages"])


def commands_with(words, project):
    return [line for command in processes_in(project).values() if words in (line := " ".join(command))]


def test_independent_stages_run_at_the_same_time_with_their_logs(project, server):
    (project / "hold").touch()
    flow = start(project, server, "second", "--jobs", "2")
    until(lambda: runs(project) == {"first@x": 1, "first@y": 1})
    (project / "hold").unlink()
    assert flow.wait(timeout=60) == 0
    assert (project / "both.txt").read_text() == "seedseed"
    assert "second: 3 run" in (project / "log").read_text()
    run_id = flow_run(server, "second", "COMPLETED")
    # Records reach the server in the background, in no order, and late where the machine is busy.
    lines = ("making x", "making y", "joining")
    for _ in range(120):
        tasks = records(server, "task_runs", flow_runs={"id": {"any_": [run_id]}})
        logs = [entry["message"] for entry in records(server, "logs", logs={"flow_run_id": {"any_": [run_id]}})]
        ended = [task for task in tasks if task["state_type"] == "COMPLETED"]
        if len(ended) == 3 and all(any(line in message for message in logs) for line in lines):
            break
        time.sleep(0.5)
    assert {task["name"] for task in tasks} == {"first@x", "first@y", "second"}
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    names = {task["id"]: task["name"] for task in tasks}
    [before] = [task["task_inputs"].get("wait_for", []) for task in tasks if task["name"] == "second"]
    assert {names[each["id"]] for each in before} == {"first@x", "first@y"}  # the arrows in the UI
    for line in lines:
        assert any(line in message for message in logs)

    code, said = run(project, server, "second")
    assert code == 0
    assert "up to date: all 3 stages of second" in said
    assert sum(runs(project).values()) == 3


def test_what_a_rerun_stage_leaves_as_it_was_reruns_nothing_after_it(project, server):
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "second"], cwd=project, check=True)
    (project / "seed.txt").write_text("seed, second\n")
    code, said = run(project, server, "second")
    assert code == 0
    assert "second: 2 run, 1 cached" in said
    assert runs(project) == {"first@x": 2, "first@y": 2, "second": 1}

    code, said = run(project, server, "second", "--force")
    assert code == 0
    assert runs(project) == {"first@x": 3, "first@y": 3, "second": 2}


def test_a_failing_stage_fails_its_dependants_and_the_flow_and_nothing_else(project, server):
    code, said = run(project, server, "after", "--jobs", "2")
    assert code == 1
    assert "error: stage broken failed; its own error stands in the log above" in said
    assert "about to fail" in said
    assert "must not run" not in said
    for line in ("| broken | failed", "| after | skipped", "| second | run"):
        assert line in said
    assert flow_run(server, "after", "FAILED")
    # What was done beside the failure is kept.
    assert stages_of(project) == {"first@x", "first@y", "second"}


def test_a_server_that_is_not_there_is_one_error(project):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, said = run(project, f"http://127.0.0.1:{closed.getsockname()[1]}/api", "second")
    assert code == 1
    assert "Traceback" not in said
    assert "error: the Prefect server does not answer" in said


def test_a_server_that_refuses_is_one_error(project):
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()

        do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, said = run(project, f"http://127.0.0.1:{server.server_port}/api", "second")
        server.shutdown()
    assert code == 1
    assert "Traceback" not in said
    assert "error: the Prefect server answers with 401 to" in said
    assert "see to PREFECT_API_URL and PREFECT_API_AUTH_STRING" in said


def test_no_stage_at_a_time_is_refused_also_where_a_deployment_is_asked(project):
    for wrong in ({"jobs": 0}, {"gpu_jobs": 0}):
        with pytest.raises(ParameterTypeError, match="greater than or equal to 1"):
            flows.reproduce.validate_parameters({"targets": ["second"], **wrong})
        with pytest.raises(ParameterTypeError, match="greater than or equal to 1"):
            flows.reencode.validate_parameters({"dataset": "toy", "encoder": "clip", **wrong})


def test_stages_for_the_gpu_take_turns(project, server):
    # `mkdir gpu` fails where another is at it.
    code, said = run(project, server, "train", "--jobs", "2", "--gpu-jobs", "1")
    assert code == 0, said
    assert runs(project) == {"train@a": 1, "train@b": 1}


def test_an_interrupt_ends_the_stages_and_the_next_run_goes_on(project, server):
    (project / "hold").touch()
    flow = start(project, server, "second", "--jobs", "2")
    until(lambda: runs(project) == {"first@x": 1, "first@y": 1})
    flow.send_signal(signal.SIGINT)
    assert flow.wait(timeout=60) == 1
    assert INTERRUPTED in (project / "log").read_text()
    assert processes_in(project) == {}
    (project / "hold").unlink()
    code, _ = run(project, server, "second")
    assert code == 0
    assert runs(project) == {"first@x": 2, "first@y": 2, "second": 1}


def test_ctrl_c_ends_a_flow_soon_although_a_terminal_ends_its_temporary_server_too(project, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(project / "home"))
    (project / "hold").touch()
    flow = start(project, "", "second", "--jobs", "2")
    until(lambda: runs(project) == {"first@x": 1, "first@y": 1}, 100)
    before = len((project / "log").read_text())
    os.killpg(flow.pid, signal.SIGINT)
    assert flow.wait(timeout=40) == 1  # Prefect's client by itself: 70 s, and a traceback in place of the error
    log = (project / "log").read_text()[before:]
    assert INTERRUPTED in log  # Prefect may end the line before it without a newline
    assert not re.search(r"failed to process item|Unable to connect|Crash detected|Traceback", log)
    assert processes_in(project) == {}


def test_two_flows_share_the_work(project, server):
    (project / "hold").touch()
    one = start(project, server, "second", "--jobs", "2")
    until(lambda: runs(project) == {"first@x": 1, "first@y": 1})
    two = start(project, server, "second", "--jobs", "2")
    until(lambda: "is busy, it is being blocked by" in (project / "log").read_text())
    (project / "hold").unlink()
    assert one.wait(timeout=90) == 0
    assert two.wait(timeout=90) == 0
    assert runs(project) == {"first@x": 1, "first@y": 1, "second": 1}
    assert stages_of(project) == {"first@x", "first@y", "second"}


def test_a_flow_waits_for_a_stage_that_is_run_by_hand(project, server):
    (project / "hold").touch()
    by_hand = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q", "first@x"], cwd=project)
    until(lambda: runs(project) == {"first@x": 1})
    flow = start(project, server, "second", "--jobs", "2")
    until(lambda: "is busy, it is being blocked by" in (project / "log").read_text())
    (project / "hold").unlink()
    assert by_hand.wait(timeout=60) == 0
    assert flow.wait(timeout=90) == 0
    assert runs(project) == {"first@x": 1, "first@y": 1, "second": 1}


def test_a_killed_stage_fails_its_task_leaves_nothing_running_and_is_done_again(project, server):
    (project / "hold").touch()
    flow = start(project, server, "second", "--jobs", "2")
    until(lambda: runs(project) == {"first@x": 1, "first@y": 1})
    by_dvc = {command[-1]: p for p, command in processes_in(project).items() if command[1:3] == ["-m", "dvc"]}
    by_dvc["first@x"].kill()
    until(lambda: not commands_with("making x", project))
    assert commands_with("making y", project)
    (project / "hold").unlink()
    assert flow.wait(timeout=60) == 1
    assert stages_of(project) == {"first@y"}
    code, _ = run(project, server, "second")
    assert code == 0
    assert runs(project) == {"first@x": 2, "first@y": 1, "second": 1}


def test_a_killed_flow_takes_its_stages_with_it_and_the_next_one_does_them_again(project, server):
    (project / "hold").touch()
    flow = start(project, server, "second", "--jobs", "2")
    until(lambda: runs(project) == {"first@x": 1, "first@y": 1})
    flow.kill()
    flow.wait()
    until(lambda: processes_in(project) == {})
    (project / "hold").unlink()
    code, _ = run(project, server, "second")
    assert code == 0
    assert runs(project) == {"first@x": 2, "first@y": 2, "second": 1}
    assert stages_of(project) == {"first@x", "first@y", "second"}


def test_a_download_is_tried_again_where_that_may_help_and_nothing_else_is(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(tasks, "PAUSES", (0.1, 0.1))
    monkeypatch.setattr(tasks, "get_run_logger", logging.getLogger)
    with flows.Children() as children:
        [download] = graph.plan(["download"]).steps
        assert tasks.repro.fn(download, children).is_completed()
        assert runs(project) == {"download": 2}  # it fails where it is the first in `runs`
        [media] = graph.plan(["media"]).steps
        assert tasks.repro.fn(media, children).is_failed()
        first, broken = graph.plan(["broken"]).steps
        assert tasks.repro.fn(first, children).is_completed()
        assert tasks.repro.fn(broken, children).is_failed()
    assert runs(project) == {"download": 2, "media": 1, "first@x": 1, "broken": 1}


def test_an_error_of_the_network_says_that_it_may_be_tried_again_and_one_of_credentials_does_not(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # does not listen
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(DataError, match=tasks.PASSING):
            downloads.fetch("file.zip", address, tmp_path, policy=downloads.Policy(tries=1))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    for said, passing in (("Connection refused", True), ("401 Client Error: Unauthorized", False)):
        failed = subprocess.CompletedProcess([], 1, stdout=said)
        with pytest.raises(DataError) as raised:
            kaggle_client.download("dataset", "a/b", tmp_path, "b.zip", run=lambda *_, failed=failed, **__: failed)
        assert (tasks.PASSING in str(raised.value)) == passing


# Prints how the flow came out.
REENCODE = """
from pipelines import flows
state = flows.reencode("toy", "clip", push=True, return_state=True)
print(state.name, state.message)
"""


def test_features_are_in_the_remote_after_a_run_that_pushes_and_a_failed_push_is_a_failed_run(project, server):
    (project / "coverage.json").write_text(json.dumps({"items": 4, "ok": 3}))
    environment = {**os.environ, "PREFECT_API_URL": server, "PYTHONPATH": str(ROOT)}

    def reencode():
        words = [sys.executable, "-c", REENCODE]
        ran = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
        return ran.stdout.splitlines()[-1]

    store = "encode_images@toy-clip encode_texts@toy-clip is up to date"
    assert reencode().startswith(f"Failed {store} here, but dvc push failed: ERROR: ")
    assert (project / "text.txt").read_text() == "seed"
    subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "store", "store"], cwd=project, check=True
    )
    assert reencode() == f"Completed {store}"
    pushed = {path.read_text() for path in (project / "store").rglob("*") if path.is_file()}
    assert pushed == {"seed", (project / "coverage.json").read_text()}


def test_one_reencoding_of_a_store_at_a_time(project, monkeypatch):
    monkeypatch.chdir(project)
    with flows._alone("toy") as first, flows._alone("toy") as second, flows._alone("other") as third:
        assert (first, second, third) == (True, False, True)
    with flows._alone("toy") as again:
        assert again


def test_the_ui_gets_progress_certificate_and_coverage(project, server):
    (project / "coverage.json").write_text(json.dumps({"items": 4, "ok": 3}))
    counts = {"users": 2, "items": 3, "interactions": 5}
    (project / "stats.json").write_text(
        json.dumps({**counts, "density": 0.8, "core": 1, "paper": None, "unique": counts, "rounds": [counts]})
    )
    code, said = run(project, server, "encode_images", "filter")
    assert code == 0, said
    pages = records(server, "artifacts")
    found = {each["key"]: each["data"] for each in pages}
    assert found["progress-encode-images-toy-clip"] == 100
    assert "| ok | 3 |" in found["image-coverage-toy-clip"]
    assert "round 1" in found["stats-toy"]
    assert f"`data/filtered/toy/stats.json` in `{project}` on {socket.gethostname()}" in found["stats-toy"]
    assert "2 run: encode_images filter" in [page["description"] for page in pages]


def test_a_result_table_leads_to_the_pages_of_what_it_was_made_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_of = ["data/filtered/hm/stats.json", "data/features/hm/clip/image.coverage.json"]
    for out in (*made_of, "data/features/demo/clip/image.coverage.json"):
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).touch()
    [line] = artifacts.links("data/reports/hm/befa.md")
    assert line == "Made of: " + ", ".join(f"[{out}](/artifacts/key/{artifacts.page(out)})" for out in made_of)
    assert artifacts.links(made_of[0]) == []


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("INFO     encode images: 64 of 496, 12.3/s, 35 s left", 100 * 64 / 496),
        ("download hm: 1.5 GB of 3.0 GB, 20.1 MB/s", 50),
        ("download hm: 500.0 kB of 1.0 MB, 12 bytes/s", 50),
        ("filter hm: 1,000 of 2,000 rows, 1,234.5/s", 50),
        ("bm3+befa seed 1, best epoch 5 of 16: recall@20 0.1234 (3.1 s)", None),
        ("12 of 500 items have no row", None),
        ("images: ok 480, missing 16", None),
        ("nothing: 0 of 0, 0.0/s", None),
    ],
)
def test_a_log_line_says_how_far_a_stage_is(line, percent):
    assert artifacts.share(line) == (percent if percent is None else pytest.approx(percent))
