"""Downloads against a real server on loopback that drops, stalls, refuses, lies, and changes its mind."""

import base64
import email.utils
import errno
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from befa import config as configurations
from befa.downloads import Fetched, KnownFile, Policy, fetch, mirrors, shown
from befa.downloads.part import Part
from befa.errors import ConfigError, DataError
from befa.sources import SOURCES

DATA = bytes(i * 7919 % 251 for i in range(300_000))
SHA256 = hashlib.sha256(DATA).hexdigest()
WHOLE = Fetched("a.zip", len(DATA), SHA256)
KNOWN = KnownFile(bytes=len(DATA), sha256=SHA256)
QUICK = Policy(tries=3, shortest_wait=0.001, longest_wait=0.01, connect_timeout=2, read_timeout=2, reserve_bytes=0)


class Server(ThreadingHTTPServer):
    """What it answers is set by attributes; `steps` are done first, one a request. `log` keeps what came and went."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.etag, self.modified = DATA, '"one"', None
        self.ranges = True  # whether Range is obeyed
        self.conditions = True  # whether If-Range is
        self.length = True  # whether Content-Length is sent
        self.headers = {}
        self.steps = []
        self.login = None
        self.log = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that is gone is no news here."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, entry = self.server, {"path": self.path, "headers": dict(self.headers), "sent": 0}
        server.log.append(entry)
        if server.login and self.headers.get("Authorization") != server.login:
            return self.answer(401)
        step = server.steps.pop(0) if server.steps else None
        if callable(step):
            step, headers = step(server), {}
        elif isinstance(step, tuple):
            step, headers = step
        else:
            headers = {}
        if isinstance(step, int) and step < 600:  # a status; more is a number of bytes
            return self.answer(step, headers)
        self.body(entry, drop_after=step)
        return None

    def answer(self, status, headers=(), body=b"no"):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def body(self, entry, drop_after):
        server, start = self.server, 0
        validator = server.etag or server.modified
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if asked and server.ranges and (not server.conditions or condition in (None, validator)):
            start = int(asked[1])
            if start >= len(server.data):
                return self.answer(416, {"Content-Range": f"bytes */{len(server.data)}"})
        rest = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        if server.length:
            self.send_header("Content-Length", str(len(rest)))
        for key, value in (("ETag", server.etag), ("Last-Modified", server.modified), *server.headers.items()):
            if value:
                self.send_header(key, value)
        self.end_headers()
        entry["start"] = start
        rest = rest if drop_after is None else rest[:drop_after]
        entry["sent"] = len(rest)
        self.wfile.write(rest)
        self.wfile.flush()
        self.close_connection = True
        return None


@contextmanager
def serving():
    server = Server()
    # The default poll of half a second is what shutting it down would take.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server():
    with serving() as server:
        yield server


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def get(server, into, known=KNOWN, **kwargs):
    return fetch("a.zip", server.address, into, known, policy=kwargs.pop("policy", QUICK), **kwargs)


# ---- which mirror


def test_the_environment_wins_over_the_configuration(monkeypatch):
    assert mirrors(None, "hm-2020") is None
    assert mirrors("data/mirror", "hm-2020") == "data/mirror"
    assert mirrors("https://host:8080/a@b", "hm-2020") == "https://host:8080/a@b"
    monkeypatch.setenv("BEFA_MIRROR_HM_2020", "https://user:secret@host/?token=1")
    assert mirrors("data/mirror", "hm-2020") == "https://user:secret@host/?token=1"


@pytest.mark.parametrize(
    "configured",
    [
        "https://user:secret@host/folder",
        "https://secret@host",
        "https://host/a?token=secret",
        "https://host/a#secret",
        "https://user:1x/secret@host/",
        "https://user:se?secret@host/",
        "user:secret@host/folder",
    ],
)
def test_a_secret_in_the_configuration_is_refused_and_not_repeated(configured):
    with pytest.raises(ConfigError, match=r"password or a query string.*BEFA_MIRROR_HM instead") as caught:
        mirrors(configured, "hm")
    assert "secret" not in str(caught.value)
    assert "secret" not in shown(configured)


# ---- folders and files


def test_a_folder_and_a_file_are_copied(tmp_path):
    (tmp_path / "mirror").mkdir()
    original = tmp_path / "mirror/a.zip"
    original.write_bytes(DATA)
    folder, told = str(tmp_path / "mirror"), []
    assert fetch("a.zip", folder, tmp_path / "one", KNOWN, progress=lambda *of: told.append(of)) == WHOLE
    assert told[-1] == (len(DATA), len(DATA), "copying a.zip")
    assert fetch("b.zip", str(original), tmp_path / "two") == Fetched("b.zip", len(DATA), SHA256)
    (tmp_path / "one/a.zip").write_bytes(b"changed")
    assert original.read_bytes() == DATA
    assert names(tmp_path / "one") == ["a.zip"]
    assert names(tmp_path / "two") == ["b.zip"]


def test_what_a_folder_lacks_or_has_wrong_is_an_error(tmp_path):
    (tmp_path / "a.zip").write_bytes(DATA)
    with pytest.raises(DataError, match=r"no b\.zip in .*; name another mirror in params\.yaml"):
        fetch("b.zip", str(tmp_path), tmp_path / "raw")
    with pytest.raises(DataError, match=r"no such mirror in .*nowhere"):
        fetch("b.zip", str(tmp_path / "nowhere"), tmp_path / "raw")
    with pytest.raises(DataError, match=r"a\.zip has 300,000 bytes, expected 3 in"):
        fetch("a.zip", str(tmp_path), tmp_path / "raw", KnownFile(bytes=3))
    with pytest.raises(DataError, match=rf"a\.zip has the sha256 {SHA256}, expected {'0' * 64} in"):
        fetch("a.zip", str(tmp_path), tmp_path / "raw", KnownFile(sha256="0" * 64))
    assert names(tmp_path / "raw") == []


def test_a_name_with_a_folder_and_a_foreign_scheme_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="not the plain name of a file"):
        fetch("../a.zip", str(tmp_path), tmp_path / "raw")
    for mirror in ("ftp://user:secret@host/a", "http://[::1", "http://"):
        with pytest.raises(ConfigError, match=r"no way to fetch|not a valid address") as caught:
            fetch("a.zip", mirror, tmp_path / "raw")
        assert "secret" not in str(caught.value)


def test_known_is_checked_when_it_is_written():
    with pytest.raises(ValueError, match="pattern"):
        KnownFile(sha256="ABC")


# ---- a server that does as it should


def test_a_file_is_downloaded_once(server, tmp_path):
    told = []
    report = lambda done, total, note="": told.append((done, total))  # noqa: E731
    assert get(server, tmp_path, progress=report) == WHOLE
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert names(tmp_path) == ["a.zip"]
    assert told[-1] == (len(DATA), len(DATA))
    assert told == sorted(told)
    assert get(server, tmp_path) == WHOLE
    assert get(server, tmp_path, KnownFile()) == WHOLE
    assert len(server.log) == 1


def test_another_file_of_that_name_is_fetched_again(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"old")
    assert get(server, tmp_path) == WHOLE
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_the_address_may_be_the_folders_or_the_files_and_keeps_its_query(server, tmp_path):
    for number, (mirror, path) in enumerate(
        [
            ("", "/a%20%23b.zip"),
            ("/", "/a%20%23b.zip"),
            ("/dir?key=1", "/dir/a%20%23b.zip?key=1"),
            ("/dir/a%20%23b.zip?key=1", "/dir/a%20%23b.zip?key=1"),
        ]
    ):
        fetch("a #b.zip", server.address + mirror, tmp_path / str(number), policy=QUICK)
        assert server.log[-1]["path"] == path


def test_two_processes_that_want_one_file_fetch_it_once(server, tmp_path):
    began, both = threading.Event(), threading.Barrier(2)

    def slowly(_):
        began.set()
        time.sleep(0.3)  # the other has come meanwhile

    server.steps = [slowly]

    def want(number):
        both.wait()
        return get(server, tmp_path)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(want, range(2))) == [WHOLE, WHOLE]
    assert began.is_set()
    assert len(server.log) == 1
    assert names(tmp_path) == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_an_empty_file_is_a_file(server, tmp_path):
    server.data = b""
    assert get(server, tmp_path, KnownFile(bytes=0)).bytes == 0
    assert names(tmp_path) == ["a.zip"]


def test_a_redirect_is_followed_without_taking_the_password_along(server, tmp_path):
    with serving() as other:
        server.login = "Basic " + base64.b64encode(b"user:secret").decode()
        server.steps = [(302, {"Location": f"{other.address}/signed?signature=1"})]
        mirror = server.address.replace("//", "//user:secret@")
        assert fetch("a.zip", mirror, tmp_path, KNOWN, policy=QUICK) == WHOLE
        assert "Authorization" not in other.log[0]["headers"]


def test_redirects_in_a_circle_end(server, tmp_path):
    server.steps = [(302, {"Location": "/a.zip"})] * 50
    with pytest.raises(DataError, match="redirected in circles"):
        get(server, tmp_path)


# ---- bad lines


def test_a_dropped_connection_is_resumed_more_often_than_there_are_tries(server, tmp_path):
    server.steps = [40_000] * 7
    assert get(server, tmp_path, KnownFile()) == WHOLE
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert [entry["start"] for entry in server.log] == [40_000 * i for i in range(8)]
    assert sum(entry["sent"] for entry in server.log) == len(DATA)
    assert {entry["headers"]["If-Range"] for entry in server.log[1:]} == {'"one"'}
    assert names(tmp_path) == ["a.zip"]


def test_a_server_that_ignores_ranges_is_started_anew(server, tmp_path):
    server.ranges, server.steps = False, [100_000, 200_000]
    assert get(server, tmp_path, KnownFile()) == WHOLE
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert [entry["start"] for entry in server.log] == [0, 0, 0]


def test_a_server_that_ignores_ranges_and_always_drops_is_given_up(server, tmp_path):
    server.ranges, server.steps = False, [100_000] * 50
    with pytest.raises(DataError, match=r"connection was lost.*after 3 tries in a row.*run again"):
        get(server, tmp_path)
    assert len(server.log) == 4  # the first brought something


@pytest.mark.parametrize("conditions", [True, False], ids=["If-Range obeyed", "If-Range ignored"])
def test_a_file_that_changes_between_tries_is_never_mixed(server, tmp_path, conditions):
    new = bytes(reversed(DATA))

    def change(server):
        server.data, server.etag = new, '"two"'

    server.conditions, server.steps = conditions, [100_000, change]
    assert get(server, tmp_path, KnownFile()).sha256 == hashlib.sha256(new).hexdigest()
    assert (tmp_path / "a.zip").read_bytes() == new


def test_a_file_that_changes_its_length_is_never_mixed_even_without_marks(server, tmp_path):
    def change(server):
        server.data = b"x" + DATA

    server.etag, server.steps = None, [100_000, change]
    assert get(server, tmp_path, KnownFile()).bytes == len(DATA) + 1
    assert (tmp_path / "a.zip").read_bytes() == b"x" + DATA


def test_a_file_that_became_shorter_than_its_part_is_started_anew(server, tmp_path):
    def change(server):
        server.data = DATA[:50_000]

    server.etag, server.steps = None, [100_000, change]
    assert get(server, tmp_path, KnownFile()).bytes == 50_000
    assert server.log[1]["sent"] == 0  # 416


def test_a_silent_server_is_tried_again(server, tmp_path):
    server.steps = [lambda server: time.sleep(0.4)]
    policy = Policy(tries=3, shortest_wait=0.001, longest_wait=0.01, read_timeout=0.2, reserve_bytes=0)
    assert get(server, tmp_path, policy=policy) == WHOLE


def test_without_a_length_the_known_size_tells_a_short_body(server, tmp_path):
    server.length, server.steps = False, [100_000]
    assert get(server, tmp_path) == WHOLE


def test_without_a_length_a_body_that_is_too_long_is_not_read_to_its_end(server, tmp_path):
    server.length, server.data = False, DATA * 50
    with pytest.raises(DataError, match=r"a\.zip has more than 300,000 bytes"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_no_server_is_an_error_that_says_why(tmp_path):
    with serving() as server:
        address = server.address
    with pytest.raises(DataError, match=r"no connection \(Connection refused\), after 3 tries in a row in http://127"):
        fetch("a.zip", address, tmp_path, policy=QUICK)


# ---- what another process left


def leave_part(server, into, known=KNOWN, sent=100_000):
    """Breaks off as a process does that is given up: with the part and its sidecar on the disk."""
    server.steps = [sent, *[503] * 3]
    with pytest.raises(DataError, match="503"):
        get(server, into, known)
    server.log.clear()


def test_a_later_process_resumes_on_a_strong_mark(server, tmp_path):
    leave_part(server, tmp_path, KnownFile())
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    assert get(server, tmp_path, KnownFile()) == WHOLE
    assert [entry["start"] for entry in server.log] == [100_000]
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    ("etag", "modified", "resumed"),
    [
        (None, None, False),
        ('W/"one"', None, False),
        (None, email.utils.formatdate(time.time() - 3600, usegmt=True), True),
        (None, email.utils.formatdate(time.time() + 3600, usegmt=True), False),
    ],
    ids=["no mark", "weak ETag", "Last-Modified of an hour ago", "Last-Modified of just now"],
)
def test_a_later_process_resumes_only_on_a_strong_mark_or_a_known_checksum(server, tmp_path, etag, modified, resumed):
    server.etag, server.modified = etag, modified
    leave_part(server, tmp_path / "unknown", KnownFile())
    assert get(server, tmp_path / "unknown", KnownFile()) == WHOLE
    assert [entry["start"] for entry in server.log] == [100_000 if resumed else 0]
    leave_part(server, tmp_path / "known", KNOWN)
    assert get(server, tmp_path / "known", KNOWN) == WHOLE
    assert [entry["start"] for entry in server.log] == [100_000]


def test_a_part_of_another_mirror_is_not_resumed(server, tmp_path):
    leave_part(server, tmp_path, KnownFile())
    assert fetch("a.zip", server.address + "/other", tmp_path, policy=QUICK) == WHOLE
    assert [entry["start"] for entry in server.log] == [0]


def test_a_part_that_is_whole_is_asked_for_its_last_byte(server, tmp_path):
    leave_part(server, tmp_path, KnownFile())
    (tmp_path / "a.zip.part").write_bytes(DATA)
    assert get(server, tmp_path, KnownFile()) == WHOLE
    assert [entry["start"] for entry in server.log] == [len(DATA) - 1]


def test_a_false_part_is_found_out_and_not_resumed_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="has the sha256"):
        get(server, tmp_path)
    assert names(tmp_path) == []
    assert get(server, tmp_path) == WHOLE


def test_a_broken_sidecar_is_no_sidecar(server, tmp_path):
    leave_part(server, tmp_path, KnownFile())
    (tmp_path / "a.zip.part.json").write_bytes(b"\xff{")
    assert get(server, tmp_path, KnownFile()) == WHOLE
    assert [entry["start"] for entry in server.log] == [0]


def test_what_was_left_goes_when_the_file_comes_from_elsewhere(server, tmp_path):
    leave_part(server, tmp_path / "raw")
    (tmp_path / "a.zip").write_bytes(DATA)
    assert fetch("a.zip", str(tmp_path), tmp_path / "raw", KNOWN) == WHOLE
    assert names(tmp_path / "raw") == ["a.zip"]


def test_a_killed_process_is_resumed_where_it_was(server, tmp_path):
    stall, part = threading.Event(), tmp_path / "a.zip.part"
    server.data = DATA * 10
    half = len(server.data) // 2
    plain = Handler.body

    def body(handler, entry, drop_after):
        if entry is not server.log[0]:
            return plain(handler, entry, drop_after)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(server.data)))
        handler.send_header("ETag", server.etag)
        handler.end_headers()
        handler.wfile.write(server.data[:half])
        handler.wfile.flush()
        stall.wait(20)
        return None

    code = "import sys, pathlib, befa.downloads as d; d.fetch('a.zip', sys.argv[1], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, server.address, str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "body", body)
        with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as child:
            until = time.monotonic() + 20
            while child.poll() is None and not (part.exists() and part.stat().st_size >= half // 2):
                assert time.monotonic() < until
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
        stall.set()
        assert child.returncode == -signal.SIGKILL
        size = part.stat().st_size
        assert half // 2 <= size <= half
        assert not (tmp_path / "a.zip").exists()
        assert get(server, tmp_path, KnownFile()).sha256 == hashlib.sha256(server.data).hexdigest()
    assert [(entry["start"], entry["sent"]) for entry in server.log[1:]] == [(size, len(server.data) - size)]
    assert (tmp_path / "a.zip").read_bytes() == server.data
    assert names(tmp_path) == ["a.zip"]


# ---- refusals


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"not there \(404\) in http://127.*; name another mirror in params\.yaml or .*BEFA_MIRROR_<DATASET>"),
        (410, r"not there \(410\)"),
        (401, r"credentials are needed \(401\).*; put an address with user and password"),
        (403, r"credentials are needed \(403\)"),
        (418, r"the server answers 418"),
    ],
)
def test_a_refusal_is_final(server, tmp_path, status, message):
    server.steps = [status]
    with pytest.raises(DataError, match=message):
        get(server, tmp_path)
    assert len(server.log) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_tried_again(server, tmp_path, status):
    server.steps = [status]
    assert get(server, tmp_path) == WHOLE
    assert len(server.log) == 2


def test_a_server_that_stays_busy_is_given_up(server, tmp_path):
    server.steps = [503] * 50
    with pytest.raises(DataError, match=r"the server answers 503, after 3 tries in a row in http://127"):
        get(server, tmp_path)
    assert len(server.log) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_wait_that_is_asked_for_is_kept_within_bounds(server, tmp_path, form):
    def after(seconds):
        return str(seconds) if form == "seconds" else email.utils.formatdate(time.time() + seconds + 0.9, usegmt=True)

    patient = Policy(tries=3, shortest_wait=0.001, longest_wait=30, reserve_bytes=0)
    server.steps = [(429, {"Retry-After": after(1)})]
    start = time.monotonic()
    assert get(server, tmp_path / "one", policy=patient) == WHOLE
    assert 0.5 <= time.monotonic() - start < 5
    server.steps = [(429, {"Retry-After": after(3600)})]
    start = time.monotonic()
    assert get(server, tmp_path / "two") == WHOLE
    assert time.monotonic() - start < 2


def test_a_wrong_file_is_refused_and_nothing_of_it_is_kept(server, tmp_path):
    with pytest.raises(DataError, match=r"a\.zip has 300,000 bytes, expected 5 in http.*it is damaged or another file"):
        get(server, tmp_path, KnownFile(bytes=5))
    with pytest.raises(DataError, match=rf"has the sha256 {SHA256}, expected {'0' * 64} in http"):
        get(server, tmp_path, KnownFile(sha256="0" * 64))
    assert names(tmp_path) == []


def test_a_web_page_is_not_taken_for_the_file(server, tmp_path):
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DataError, match=r"a web page came instead of the file in http.*; open it in a browser"):
        get(server, tmp_path, KnownFile())
    assert names(tmp_path) == []
    assert fetch("a.html", server.address, tmp_path, policy=QUICK).bytes == len(DATA)


def test_a_file_packed_on_the_way_is_refused(server, tmp_path):
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DataError, match=r"the server packs the file \(gzip\) unasked"):
        get(server, tmp_path)
    assert server.log[0]["headers"]["Accept-Encoding"] == "identity"
    fetch("a.csv.gz", server.address, tmp_path, policy=QUICK)


def test_too_little_space_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 299_000 + 50))
    message = r"too little disk space: 300,000 bytes are needed \(and 50 left free\), 299,050 are free in .*; make room"
    policy = Policy(tries=3, reserve_bytes=50)
    with pytest.raises(DataError, match=message):
        get(server, tmp_path / "raw", KnownFile(), policy=policy)
    assert (tmp_path / "raw/a.zip.part").exists() is False
    (tmp_path / "a.zip").write_bytes(DATA)
    with pytest.raises(DataError, match=message):
        fetch("a.zip", str(tmp_path), tmp_path / "raw", policy=policy)
    # What is there already needs no room.
    monkeypatch.undo()
    leave_part(server, tmp_path / "raw")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 200_050))
    assert get(server, tmp_path / "raw", policy=policy) == WHOLE


def test_a_disk_that_fills_up_on_the_way_is_an_error(server, tmp_path, monkeypatch):
    def append(part, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Part, "append", append)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\) in .*a\.zip; see to disk"):
        get(server, tmp_path)


# ---- secrets


def test_a_password_is_used_and_shows_nowhere(server, tmp_path, monkeypatch, caplog):
    server.login = "Basic " + base64.b64encode(b"somebody:se@cret").decode()
    address = server.address.replace("//", "//somebody:se%40cret@") + "?signature=hidden"
    monkeypatch.setenv("BEFA_MIRROR_HM", address)
    caplog.set_level(logging.DEBUG)
    for logger in ("befa", "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, logger=logger)
    mirror = mirrors(None, "hm")
    assert mirror == address
    texts = []

    def fail(steps, into, **kwargs):
        server.steps = steps
        with pytest.raises(DataError) as caught:
            fetch("a.zip", mirror, into, **{"policy": QUICK, **kwargs})
        texts.append(str(caught.value))
        texts.append("".join(map(str, caught.traceback)))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    fail([404], tmp_path / "raw")
    fail([401], tmp_path / "raw")
    fail([(302, {"Location": "/a.zip?signature=hidden"})] * 50, tmp_path / "raw")
    fail([None], tmp_path / "raw", known=KnownFile(bytes=1))
    fail([100_000, *[503] * 3], tmp_path / "part")
    texts += [path.read_text("latin-1") for path in (tmp_path / "part").iterdir()]
    assert len(texts) == 12
    assert fetch("a.zip", mirror, tmp_path / "part", policy=QUICK) == WHOLE
    assert "next try in" in caplog.text  # there is a log to look at
    for text in [*texts, caplog.text, *map(repr, caplog.records)]:
        for secret in ("cret", "hidden", "somebody", base64.b64encode(b"somebody:se@cret").decode()):
            assert secret not in text
    fail([404], tmp_path / "raw")


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("hm", {}),
        ("microlens", {"mirror": "data/incoming/microlens"}),
        ("tmall", {"mirror": "data/incoming/tmall"}),
        ("catalogue", {"folder": "shop", "interactions": {"file": "a.csv", "user": "u", "item": "i"}}),
    ],
)
def test_a_password_in_an_address_without_http_shows_neither(kind, source, tmp_path, monkeypatch):
    monkeypatch.setenv("BEFA_MIRROR_SHOP", "somebody:hidden@mirror.org/folder")
    config = configurations.check({"form": "sample"} | source if kind == "tmall" else source, "x", SOURCES[kind].Config)
    needs = SOURCES[kind].needs(config, "shop")
    assert needs
    assert all("mirror.org/folder" in need.what and not need.there for need in needs)
    with pytest.raises(DataError, match=r"mirror\.org/folder") as caught:
        SOURCES[kind].fetch(config, tmp_path, dataset="shop", progress=lambda *_: None)
    for text in (str(caught.value), *(part for need in needs for part in (need.what, need.mend))):
        assert "hidden" not in text


def test_shown_keeps_what_tells_the_place():
    assert shown("https://user:secret@host:81/a%20b/c@1.zip?key=1#x") == "https://host:81/a%20b/c@1.zip"
    assert shown("http://[::1]:80/a") == "http://[::1]:80/a"
    assert shown("/data/raw") == "/data/raw"
