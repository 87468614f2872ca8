"""`python -m pipelines serve`: a real server, a schedule that fires, a run that is asked for, a clean end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from tests.processes import asked, processes_in
from tests.toy_graph import toy_project

pytestmark = pytest.mark.xdist_group("flows")

ROOT = Path(__file__).parent.parent

# Every stage writes its name to `runs`, which DVC does not know; `slow` never ends by itself.
GRAPH = """
stages:
  media:
    matrix: {dataset: [toy]}
    cmd: echo $DVC_STAGE >> runs; echo picture > pictures.txt
    deps: [seed.txt]
    outs: [pictures.txt]
  encode_images:
    matrix: {cell: [toy-clip]}
    cmd: echo $DVC_STAGE >> runs; cp pictures.txt image.txt
    deps: [pictures.txt]
    outs: [image.txt]
  encode_texts:
    matrix: {cell: [toy-clip]}
    cmd: echo $DVC_STAGE >> runs; cp seed.txt text.txt
    deps: [seed.txt]
    outs: [text.txt]
  slow:
    cmd: echo $DVC_STAGE >> runs; sleep 300
    deps: [seed.txt]
"""


@pytest.fixture
def project(tmp_path):
    return toy_project(tmp_path, GRAPH)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def serve(project, *words):
    # Asked for at once, where ten seconds are the habit.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    command = [sys.executable, "-m", "pipelines", "serve", *words]
    log = (project / "log").open("w")
    return subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True)


def until(condition, process, log, seconds=60):
    for _ in range(seconds * 4):
        if condition():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.25)
    raise AssertionError(log.read_text())


def runs(project):
    path = project / "runs"
    return path.read_text().split() if path.exists() else []


def _busy(error):
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.SERVICE_UNAVAILABLE


# As Prefect's own client does: its embedded database, when busy, has the server say 503.
@retry(retry=retry_if_exception(_busy), wait=wait_fixed(1), stop=stop_after_delay(60), reraise=True)
def answer(method, url, body):
    response = httpx.request(method, url, json=body, timeout=30)
    response.raise_for_status()
    return response.json()


def test_a_schedule_fires_a_run_can_be_asked_for_and_all_ends_together(project, port):
    process = serve(project, "--port", str(port), "--dataset", "toy", "--encoder", "clip", "--every", "10")
    api, log = f"http://127.0.0.1:{port}/api", project / "log"
    try:
        until(lambda: "encode_images@toy-clip" in runs(project), process, log)
        assert f"Prefect: http://127.0.0.1:{port} " in log.read_text()
        # The UI asks the address that the browser has, whatever machine or tunnel that is.
        assert httpx.get(f"http://127.0.0.1:{port}/ui-settings", timeout=30).json()["api_url"] == "/api"
        deployment = httpx.get(f"{api}/deployments/name/reproduce/reproduce", timeout=30).json()["id"]
        parameters = {"targets": ["slow"], "jobs": 1}
        answer("POST", f"{api}/deployments/{deployment}/create_flow_run", {"parameters": parameters})
        until(lambda: "slow" in runs(project), process, log)
        # Looked for again although nothing has changed.
        until(lambda: runs(project).count("media@toy") >= 2, process, log)
    finally:
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0, log.read_text()
    for _ in range(40):  # the stage's own end takes a moment
        if not processes_in(project):
            break
        time.sleep(0.25)
    assert processes_in(project) == {}
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
    assert (project / ".prefect/prefect.db").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dataset", "toy"], "one of --dataset and --encoder without the other"),
        (["--dataset", "toy", "--encoder", "clip", "--push"], "no remote to push to in .dvc/config; dvc remote add"),
        (["--every", "5"], "--cron, --every and --push are of a reencoding; give --dataset and --encoder"),
        (["--dataset", "toi", "--encoder", "clip"], "did you mean 'encode_images@toy-clip'?"),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_started(project, words, says):
    ran = asked(project, "serve", *words)
    assert ran.returncode == 1
    assert says in ran.stderr
    assert not (project / ".prefect").exists()


def test_a_taken_port_is_an_error_with_the_mend(project, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert serve(project, "--port", str(port)).wait(timeout=60) == 1
    assert f"error: port {port} is taken; end what holds it" in (project / "log").read_text()
