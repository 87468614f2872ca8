"""Kaggle's own client, run for real against a server on loopback that answers as Kaggle's API does.

The client knows its servers by name only. KAGGLE_API_ENVIRONMENT=LOCALHOST makes that name http://localhost, and a
proxy in the environment leads it to the port at hand.
"""

import base64
import importlib.util
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from befa.errors import ConfigError, DataError
from befa.sources import kaggle_client
from befa.sources.kaggle_client import credentials, download

DATA = b"PK" + bytes(range(256)) * 200
KEY = "0123456789abcdef0123456789abcdef"

needs_client = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


class Kaggle(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusal = None
        self.log = []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        headers |= {"Content-Type": kind, "Content-Length": str(len(body))}
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.log.append((self.path, None, self.headers.get("Authorization")))
        self.answer(200, DATA, "application/zip", Accept_Ranges="bytes", ETag='"one"')

    def do_POST(self):
        call = self.path.rpartition("/")[2]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.server.log.append((call, body, self.headers.get("Authorization")))
        if call == "IntrospectToken":
            return self.answer(200, b'{"active": true, "username": "someone"}')
        if self.server.refusal is not None:
            status, message = self.server.refusal
            return self.answer(status, json.dumps({"code": status, "message": message}).encode())
        if call == "GetDatasetMetadata":
            return self.answer(200, b'{"info": {"licenses": [{"name": "other"}]}}')
        # Kaggle answers with a redirect to a signed address at a storage service.
        return self.answer(302, b"", Location="http://localhost/storage/archive.zip?Signature=hidden")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, and nothing of Kaggle's in the environment."""
    for key in list(os.environ):
        if key.startswith("KAGGLE_") or key.lower().endswith("_proxy"):
            monkeypatch.delenv(key)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def kaggle(home, monkeypatch):
    server = Kaggle()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o600)
    return path


def saying(output, returncode=1):
    """Takes the place of `subprocess.run`."""
    return lambda command, **kwargs: subprocess.CompletedProcess(command, returncode, stdout=output)


# ---- credentials


def test_no_credentials_are_none(home):
    assert credentials() is None
    put(home / ".kaggle/kaggle.json", "not json")
    put(home / ".kaggle/access_token", " \n")
    put(home / ".kaggle/credentials.json", {"username": "someone"})
    assert credentials() is None


def test_the_place_of_credentials_is_told_in_the_clients_order(home, monkeypatch, tmp_path):
    login = put(home / ".kaggle/credentials.json", {"refresh_token": KEY})
    assert credentials() == str(login)
    keys = put(home / ".kaggle/kaggle.json", {"username": "someone", "key": KEY})
    assert credentials() == str(keys)
    elsewhere = put(tmp_path / "elsewhere/kaggle.json", {"username": "someone", "key": KEY})
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(elsewhere.parent))
    assert credentials() == str(elsewhere)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    assert credentials() == "the environment variable KAGGLE_KEY"
    token = put(home / ".kaggle/access_token", KEY)
    assert credentials() == str(token)
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    assert credentials() == "the environment variable KAGGLE_API_TOKEN"


def test_without_a_folder_of_its_own_the_key_lies_with_the_other_settings(home):
    keys = put(home / ".config/kaggle/kaggle.json", {"username": "someone", "key": KEY})
    assert credentials() == str(keys)


@needs_client
def test_the_client_looks_in_the_same_places(kaggle, home, tmp_path, monkeypatch):
    put(tmp_path / "elsewhere/kaggle.json", {"username": "someone", "key": KEY})
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "elsewhere"))
    download("dataset", "owner/name", tmp_path / "raw", "archive.zip")
    basic = "Basic " + base64.b64encode(f"someone:{KEY}".encode()).decode()
    assert {authorization for call, _, authorization in kaggle.log if call == "DownloadDataset"} == {basic}


# ---- downloads by the real client


@needs_client
def test_a_dataset_is_downloaded(kaggle, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    monkeypatch.setenv("VERBOSE", "true")  # would make the client print its headers
    path = download("dataset", "owner/name", tmp_path / "raw", "archive.zip")
    assert path == tmp_path / "raw/archive.zip"
    assert path.read_bytes() == DATA
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["archive.zip"]
    asked = {call: (body, authorization) for call, body, authorization in kaggle.log}
    body, authorization = asked["DownloadDataset"]
    assert (body["ownerSlug"], body["datasetSlug"], authorization) == ("owner", "name", f"Bearer {KEY}")
    assert KEY not in "".join(capfd.readouterr())


@needs_client
def test_a_competition_is_downloaded_over_an_older_file(kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    (tmp_path / "archive.zip").write_bytes(b"old")
    download("competition", "h-and-m", tmp_path, "archive.zip")
    assert (tmp_path / "archive.zip").read_bytes() == DATA
    assert any(call == "DownloadDataFiles" and body["competitionName"] == "h-and-m" for call, body, _ in kaggle.log)


@needs_client
@pytest.mark.parametrize(
    ("kind", "slug", "refusal", "message"),
    [
        (
            "competition",
            "h-and-m",
            (403, "You must accept this competition's rules before you'll be able to download files."),
            r"must accept.*; accept the competition's rules on its page, https://www\.kaggle\.com/competitions/h-and-m/ru",
        ),
        ("dataset", "owner/name", (403, "Permission 'datasets.get' was denied"), r"denied.*your account can open that"),
        (
            "dataset",
            "owner/name",
            (404, f"Not found {KEY}"),
            r"client failed \(Not found \*\*\*\) in https://www\.kagg",
        ),
        (
            "dataset",
            "owner/name",
            (401, "Unauthenticated"),
            r"refuses the credentials from the environment variable KA",
        ),
    ],
    ids=["403 competition", "403 dataset", "404", "401"],
)
def test_a_refusal_is_told_in_kaggles_words_without_the_key(
    kaggle, tmp_path, monkeypatch, kind, slug, refusal, message
):
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    kaggle.refusal = refusal
    with pytest.raises(DataError, match=message) as caught:
        download(kind, slug, tmp_path, "archive.zip")
    assert KEY not in str(caught.value)
    assert not (tmp_path / "archive.zip").exists()


# ---- what needs no client


def test_no_credentials_say_where_to_put_them(home, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_client.importlib.util, "find_spec", lambda name: object())
    message = r"no credentials for Kaggle in .*kaggle\.json; make an API token at .* KAGGLE_API_TOKEN"
    with pytest.raises(DataError, match=message):
        download("dataset", "owner/name", tmp_path, "archive.zip", run=saying(""))


def test_no_client_says_how_to_install_it(home, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_client.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"client is not installed in .*; run `make environment`"):
        download("dataset", "owner/name", tmp_path, "archive.zip", run=saying(""))


@pytest.mark.parametrize(("kind", "slug"), [("dataset", "name"), ("dataset", "--help/x"), ("competition", "-h")])
def test_what_is_no_slug_reaches_no_command_line(tmp_path, kind, slug):
    with pytest.raises(ConfigError, match=f"is no {kind} of Kaggle"):
        download(kind, slug, tmp_path, "archive.zip", run=saying(""))


def test_no_secret_is_in_what_the_client_is_said_to_have_said(home, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_client.importlib.util, "find_spec", lambda name: object())
    login = put(home / ".kaggle/credentials.json", {"refresh_token": "refresh-1", "access_token": "access-1"})
    put(home / ".kaggle/kaggle.json", {"username": "someone", "key": KEY})
    basic = base64.b64encode(f"someone:{KEY}".encode()).decode()

    def run(command, **kwargs):
        # The client renews its login, then fails.
        login.write_text(json.dumps({"refresh_token": "refresh-2", "access_token": "access-2"}))
        words = (
            f"first line\nsomeone {KEY} {basic} refresh-1 access-1 refresh-2 access-2 at /a.zip?Signature=hidden\n\n"
        )
        return subprocess.CompletedProcess(command, 1, stdout=words)

    with pytest.raises(DataError) as caught:
        download("dataset", "owner/name", tmp_path, "archive.zip", run=run)
    assert "(someone *** *** *** *** *** *** at /a.zip?***)" in str(caught.value)


def test_a_full_disk_is_no_matter_of_the_network(home, tmp_path, monkeypatch):
    """What says "run again" is tried again by a flow."""
    monkeypatch.setattr(kaggle_client.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    with pytest.raises(DataError, match=r"No space left on device.*; make room on the disk$"):
        download("dataset", "o/n", tmp_path, "a.zip", run=saying("OSError: [Errno 28] No space left on device"))


def test_a_client_that_brings_nothing_is_an_error(home, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_client.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    with pytest.raises(DataError, match="it ended well, but brought no file"):
        download("dataset", "owner/name", tmp_path, "archive.zip", run=saying("License(s): other", returncode=0))
    with pytest.raises(DataError, match="it said nothing"):
        download("dataset", "owner/name", tmp_path, "archive.zip", run=saying(""))
