"""One machine's Prefect: its server, and the deployments `reproduce` and `reencode`, until Ctrl-C.

The server's database and log lie in the project's .prefect/. What runs on other machines: prefect.yaml.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from befa.errors import BefaError, ConfigError
from pipelines import graph

HOST = "127.0.0.1"
HOME = Path(".prefect")
START_SECONDS = 180.0
STOP_SECONDS = 30.0


class ServerError(BefaError):
    """The server did not start."""


def serve(port: int, reencoded: tuple[str, str] | None, *, cron: str, every: float | None, push: bool) -> None:
    """Serves both deployments; `reencoded`, a dataset and an encoder, is encoded anew by `cron`, or `every` so many
    seconds, and its features pushed to DVC's default remote if `push`. Returns at Ctrl-C or SIGTERM, when everything it
    started has ended. Raises ServerError, and ConfigError for a schedule that is none and a remote that is not there.
    """  # fmt: skip
    if push:
        graph.need_remote()
    home = HOME.absolute()
    home.mkdir(exist_ok=True)
    # Before prefect is imported, and for the runs' own processes.
    os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=f"http://{HOST}:{port}/api")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _server(port, home / "server.log"):
        from prefect import serve as serve_deployments
        from prefect.flows import EntrypointType

        from pipelines import flows

        # By module, so that a run imports what this process has.
        module = {"entrypoint_type": EntrypointType.MODULE_PATH}
        scheduled: dict[str, object] = {}
        if reencoded is not None:
            dataset, encoder = reencoded
            parameters = {"dataset": dataset, "encoder": encoder, "push": push}
            scheduled = {"parameters": parameters, **({"cron": cron} if every is None else {"interval": every})}
        try:
            deployments = [
                flows.reproduce.to_deployment("reproduce", **module),
                flows.reencode.to_deployment("reencode", **scheduled, **module),
            ]
        except ValueError:
            raise ConfigError(f"no schedule {cron!r}", where="--cron", mend="five fields, as '0 3 * * *'") from None
        print(f"Prefect: http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)  # noqa: T201
        serve_deployments(*deployments, print_starting_message=False)


@contextmanager
def _server(port: int, log: Path) -> Iterator[None]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            mend = "end what holds it (an earlier server?), or choose another with --port"
            raise ServerError(f"port {port} is taken", mend=mend) from None
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    # The address as the browser has it: through a tunnel it is another one than here.
    environment = {**os.environ, **quiet, "PREFECT_SERVER_UI_API_URL": "/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    # In a session of its own: Ctrl-C must reach it last, as ending runs report to it.
    with (
        log.open("w") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True) as process,
    ):
        try:
            _await(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"http://{HOST}:{port}/api/health", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise ServerError("the Prefect server does not start", mend=f"its own error stands in {log}")
