"""A catalogue's pictures are fetched from a real server: once, politely, with a reason for each that does not come."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from befa.errors import DataError
from befa.images import ImageFiles
from befa.pictures import COVERAGE, PicturesConfig, fetch_pictures
from befa.tables import read_table, write_table

QUICK = PicturesConfig(pause=0.0, shortest_wait=0.01, longest_wait=0.05, timeout=5.0, max_bytes=10_000)


def picture(colour, form="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, form)
    return buffer.getvalue()


RED, BLUE = picture("red"), picture("blue", "PNG")


class Handler(BaseHTTPRequestHandler):
    """Answers from `server.pages`: a body, or a function of the handler and of how often the path was asked before."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes, of which the second would wait for 40 ms

    def do_GET(self):
        server = self.server
        with server.lock:
            before = server.log.count(self.path)
            server.log.append(self.path)
            server.starts.append(time.monotonic())
        try:
            page = server.pages.get(self.path)
            if callable(page):
                page(self, before)
            else:
                self.answer(404, b"none") if page is None else self.answer(200, page)
        except ConnectionError:
            self.close_connection = True

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # clients that hang up are what is tested


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.lock, server.pages = threading.Lock(), {}
        server.log, server.starts = [], []
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def dead():
    """Address of a port where nobody listens; it is bound, so that nobody else gets it meanwhile."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


def table(links):
    return pa.table({"item": list(links), "url": pa.array(list(links.values()), pa.string())})


def fetch(links, into, config=QUICK, **options):
    return fetch_pictures(table(links), into, config, **options)


def rows(into):
    return {row["item"]: row for row in read_table(into / "pictures.parquet").to_pylist()}


def outcomes(into):
    return {item: row["error"] or row["status"] for item, row in rows(into).items()}


def files(into):
    return {path.name: path.read_bytes() for path in into.iterdir()}


def config(**changes):
    return PicturesConfig(**{name: getattr(QUICK, name) for name in QUICK.__dataclass_fields__} | changes)


def slow(handler, before):
    time.sleep(2.5)
    handler.answer(200, RED)


def endless(handler, before):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(10_000):
        handler.wfile.write(b"x" * 1000)
    handler.server.pages["/read to the end"] = b""


def truncated(handler, before):
    handler.answer(200, RED[:100], Content_Length=len(RED))
    handler.drop()


def then(first):
    """The first time as `first` has it, then a picture."""
    return lambda handler, before: handler.answer(200, RED) if before else first(handler)


@pytest.fixture
def no_names(monkeypatch):
    """No name is resolved, at once and without a network; "a..b" as by a Python that looks at it first."""
    resolve = socket.getaddrinfo

    def refuse(host, *args, **options):
        if host in ("a..b", b"a..b"):
            raise UnicodeError("label empty or too long")
        if host in ("nowhere.invalid", b"nowhere.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_each_link_has_its_picture_or_its_reason(server, dead, no_names, tmp_path):
    server.pages |= {
        "/ok.jpg": RED,
        "/png-inside.jpg": BLUE,
        "/page.jpg": b"<html>sold out</html>",
        "/empty.jpg": b"",
        "/half.jpg": RED[:300],
        "/slow.jpg": slow,
        "/truncated.jpg": truncated,
        "/large.jpg": RED + b"\0" * 20_000,
        "/endless.jpg": endless,
        "/moved.jpg": lambda handler, before: handler.answer(302, Location="/ok.jpg"),
        "/round.jpg": lambda handler, before: handler.answer(302, Location="/round.jpg"),
        "/to-a-file.jpg": lambda handler, before: handler.answer(302, Location="file:///etc/passwd"),
        "/busy.jpg": then(lambda handler: handler.answer(503)),
        "/too-many.jpg": then(lambda handler: handler.answer(429, Retry_After=1)),
        "/dropped.jpg": then(lambda handler: handler.drop()),
        "/broken.jpg": lambda handler, before: handler.answer(500),
        "/secret.jpg": lambda handler, before: handler.answer(403),
    }
    links = {path: server.address + path for path in (*server.pages, "/gone.jpg")}
    links |= {"none": None, "dead": dead + "/1.jpg", "ftp": "ftp://127.0.0.1/1.jpg", "word": "1.jpg", "empty": ""}
    links |= {"port": "http://127.0.0.1:99999/", "dots": "http://a..b/1.jpg", "host": "http://nowhere.invalid/1.jpg"}
    links |= {"plain": links["/ok.jpg"].replace("http:", "https:"), "relative": links["/ok.jpg"].removeprefix("http:")}
    fetched = fetch(links, tmp_path / "p", config(timeout=1.5, per_host=16))
    assert outcomes(tmp_path / "p") == {
        **dict.fromkeys(("/ok.jpg", "/png-inside.jpg", "/moved.jpg", "/busy.jpg", "/too-many.jpg"), "ok"),
        "/dropped.jpg": "ok",
        "/page.jpg": "not an image",
        "/empty.jpg": "no bytes",
        "/half.jpg": "cannot be decoded (Truncated File Read)",
        "/slow.jpg": "timed out",
        "/truncated.jpg": "connection dropped",
        "/large.jpg": "too large",
        "/endless.jpg": "too large",
        "/round.jpg": "too many redirects",
        "/to-a-file.jpg": "not an http address",
        "/broken.jpg": "500",
        "/secret.jpg": "403",
        "/gone.jpg": "404",
        "none": "no_link",
        "dead": "connection refused",
        **dict.fromkeys(("ftp", "word", "empty", "port", "dots"), "not an http address"),
        "host": "name not resolved",
        **dict.fromkeys(("plain", "relative"), "TLS failed"),  # a page's "//host" is taken for https
    }
    assert "/read to the end" not in server.pages
    asked = Counter(server.log)
    # What may pass is tried again, what will not is not.
    assert {asked[path] for path in ("/slow.jpg", "/truncated.jpg", "/broken.jpg")} == {QUICK.tries}
    assert {asked[path] for path in ("/busy.jpg", "/too-many.jpg", "/dropped.jpg")} == {2}
    assert {asked[path] for path in ("/page.jpg", "/half.jpg", "/large.jpg", "/secret.jpg", "/gone.jpg")} == {1}
    assert asked["/round.jpg"] == 6

    assert sorted(files(tmp_path / "p")) == ["pictures.parquet", "pictures.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    row = rows(tmp_path / "p")["/png-inside.jpg"]
    assert row["image"] == "pictures.zip/%2Fpng-inside.jpg.png"
    assert ImageFiles(tmp_path / "p").read(row["image"]) == BLUE
    coverage = fetched.coverage
    assert json.loads(json.dumps(coverage)) == coverage
    assert {name: coverage[name] for name in ("items", "ok", "failed", "no_link")} == {
        **{"items": len(links), "ok": 6, "failed": len(links) - 7, "no_link": 1}
    }
    assert coverage["bytes"] == 5 * len(RED) + len(BLUE)
    assert list(coverage["errors"].items())[:2] == [("not an http address", 6), ("TLS failed", 2)]
    assert (fetched.kept, fetched.fetched) == (0, 6)


def test_two_runs_from_nothing_give_the_same_bytes_whatever_the_order(server, tmp_path):
    server.pages |= {f"/{n}.png": picture((n, 0, 0), "PNG") for n in range(40)}
    links = {f"i{n}": f"{server.address}/{n}.png" for n in range(45)}
    first = fetch(links, tmp_path / "a")
    second = fetch(dict(reversed(links.items())), tmp_path / "b/c", config(concurrency=3, per_host=1))
    assert files(tmp_path / "a") == files(tmp_path / "b/c")
    assert first == second
    with zipfile.ZipFile(tmp_path / "a/pictures.zip") as archive:
        assert archive.namelist() == sorted(f"i{n}.png" for n in range(40))
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_second_run_asks_for_failed_and_changed_links_alone(server, tmp_path):
    server.pages |= {"/1.jpg": RED, "/2.jpg": RED, "/3.jpg": RED, "/4.jpg": BLUE}
    links = {name: f"{server.address}/{name}.jpg" for name in ("1", "2", "3", "late", "gone")}
    fetch(links, tmp_path)
    before = files(tmp_path)

    server.log.clear()
    again = fetch(links, tmp_path)
    assert sorted(server.log) == ["/gone.jpg", "/late.jpg"]
    assert files(tmp_path) == before
    assert (again.kept, again.fetched) == (3, 0)

    # One came up, one's link changed, one's changed to nothing, one is no longer wanted, one is new with a known link.
    server.log.clear()
    server.pages["/late.jpg"] = BLUE
    links |= {"2": f"{server.address}/4.jpg", "3": f"{server.address}/nothing.jpg", "new": links["1"]}
    del links["gone"]
    changed = fetch(links, tmp_path)
    assert sorted(server.log) == ["/4.jpg", "/late.jpg", "/nothing.jpg"]
    assert outcomes(tmp_path) == {"1": "ok", "2": "ok", "3": "404", "late": "ok", "new": "ok"}
    assert ImageFiles(tmp_path).read("pictures.zip/2.png") == BLUE
    assert (changed.kept, changed.fetched) == (2, 2)
    with zipfile.ZipFile(tmp_path / "pictures.zip") as archive:
        assert archive.namelist() == ["1.jpg", "2.png", "late.png", "new.jpg"]


def test_an_archive_that_its_table_does_not_speak_of_is_fetched_anew(server, tmp_path):
    server.pages |= {"/1.jpg": RED, "/2.jpg": BLUE}
    links = {name: f"{server.address}/{name}.jpg" for name in ("1", "2")}
    fetch(links, tmp_path)
    whole = files(tmp_path)

    # As after a kill between the two files: the table says that 1 is BLUE, and knows a third.
    told = read_table(tmp_path / "pictures.parquet").to_pylist()
    told[0]["sha256"] = told[1]["sha256"]
    told.append(told[1] | {"item": "3", "url": f"{server.address}/3.jpg", "image": "pictures.zip/3.jpg"})
    write_table(tmp_path / "pictures.parquet", pa.Table.from_pylist(told, schema=COVERAGE))
    server.log.clear()
    fetch(links, tmp_path)
    assert server.log == ["/1.jpg"]
    assert files(tmp_path) == whole

    for name in whole:  # either file lost, or cut short
        for left in (b"", whole[name][:-30]):
            (tmp_path / name).write_bytes(left)
            fetch(links, tmp_path)
            assert files(tmp_path) == whole
        (tmp_path / name).unlink()
        fetch(links, tmp_path)
        assert files(tmp_path) == whole


def test_equal_links_are_fetched_once_for_all_their_items(server, tmp_path):
    server.pages["/1.jpg"] = RED
    links = {str(n): server.address + "/1.jpg" for n in range(30)}
    links |= {"space": f" {server.address}/1.jpg ", "fragment": f"{server.address}/1.jpg#top"}
    fetched = fetch(links, tmp_path)
    assert server.log == ["/1.jpg"]
    assert fetched.coverage["ok"] == fetched.fetched == 32


def test_ids_of_any_kind_make_members_that_are_safe_and_apart(server, tmp_path):
    server.pages |= {f"/{n}": picture((n, 0, 0), "PNG") for n in range(12)}
    ids = ["a/b", "a%2Fb", "../x", "..", ".", "", "衣服", "a b", "a.png", "a", "A", "a\\b"]
    fetch({item: f"{server.address}/{n}" for n, item in enumerate(ids)}, tmp_path)
    read = ImageFiles(tmp_path).read
    assert [read(rows(tmp_path)[item]["image"]) for item in ids] == [server.pages[f"/{n}"] for n in range(12)]
    with zipfile.ZipFile(tmp_path / "pictures.zip") as archive:
        assert all("/" not in name and "\\" not in name and name.isascii() for name in archive.namelist())


def test_a_host_is_asked_by_few_at_a_time_and_not_too_often(server, tmp_path):
    asked, most = [], []

    def after_a_while(answer):
        def page(handler, before):
            asked.append(handler.path)
            most.append(len(asked))
            time.sleep(0.05)
            asked.remove(handler.path)  # before the answer leaves: the client may ask again as soon as it has it
            answer(handler)

        return page

    server.pages |= {f"/{n}": after_a_while(lambda handler: handler.answer(200, RED)) for n in range(24)}
    # A redirect is a request of its own, to the host that it leads to.
    server.pages |= {
        f"/to{n}": after_a_while(lambda handler: handler.answer(302, Location=handler.path[3:])) for n in range(4)
    }
    links = {path: server.address + path for path in server.pages}
    fetch(links, tmp_path / "a", config(per_host=3))
    assert max(most) == 3

    most.clear()
    fetch(links, tmp_path / "b", config(concurrency=2))
    assert max(most) == 2

    server.starts.clear()
    fetch(dict(list(links.items())[:10]), tmp_path / "c", config(pause=0.1))
    # Without pauses half a second at most; the server's clock starts when it has read, which may be late.
    assert server.starts[-1] - server.starts[0] > 9 * 0.1 - 0.2


@pytest.mark.parametrize("form", ["seconds", "date", "nonsense"])
def test_retry_after_makes_the_whole_host_wait_but_not_for_ever(server, tmp_path, form):
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    value = {"seconds": 3600, "date": later, "nonsense": "soon"}[form]
    server.pages["/1"] = then(lambda handler: handler.answer(429, Retry_After=value))
    fetch({"1": server.address + "/1"}, tmp_path, config(longest_wait=0.4))
    assert outcomes(tmp_path) == {"1": "ok"}
    waited = server.starts[1] - server.starts[0]
    assert waited < 0.38 if form == "nonsense" else 0.38 < waited < 2


def test_a_dead_host_is_given_up_and_holds_up_no_other(server, dead, tmp_path, caplog):
    server.pages |= {f"/{n}": RED for n in range(20)}
    links = {f"dead{n}": f"{dead}/{n}" for n in range(300)} | {f"{n}": f"{server.address}/{n}" for n in range(20)}
    fetched = fetch(links, tmp_path)
    assert fetched.coverage["errors"] == {"host given up": 300}
    assert fetched.coverage["ok"] == 20
    assert caplog.text.count("given up after 20 refusals in a row (connection refused)") == 1

    # A host that answers in between is not dead, and a plain 404 or 500 is an answer.
    server.pages |= {f"/{n}": (lambda handler, before: handler.drop()) for n in range(20, 30)}
    fetch({f"{n}": f"{server.address}/{n}" for n in range(40)}, tmp_path, config(per_host=1, tries=1, give_up_after=11))
    assert Counter(outcomes(tmp_path).values()) == {"ok": 20, "connection dropped": 10, "404": 10}


def test_a_host_that_asks_to_stay_away_is_left_alone(server, tmp_path):
    server.pages |= {f"/{n}": (lambda handler, before: handler.answer(429)) for n in range(50)}
    fetched = fetch({f"{n}": f"{server.address}/{n}" for n in range(50)}, tmp_path, config(give_up_after=5))
    assert fetched.coverage["errors"] == {"host given up": 50}
    assert len(server.log) < 10


CHILD = """
import sys, pyarrow as pa
from pathlib import Path
from befa.pictures import PicturesConfig, fetch_pictures
items = pa.table({"item": [str(n) for n in range(30)], "url": [f"{sys.argv[1]}/{n}" for n in range(30)]})
fetch_pictures(items, Path(sys.argv[2]), PicturesConfig(pause=0.0, per_host=2))
"""


def test_a_killed_run_is_taken_up(server, tmp_path):
    into, journal = tmp_path / "p", tmp_path / "p.partial"
    enough = threading.Event()

    def page(handler, before):
        if len(server.log) > 10:
            enough.wait(20)  # the child is killed in the middle of its requests
        handler.answer(200, RED)

    server.pages |= {f"/{n}": page for n in range(30)}
    links = {str(n): f"{server.address}/{n}" for n in range(30)}
    top = Path(__file__).parents[1]
    child = subprocess.Popen([sys.executable, "-c", CHILD, server.address, into], cwd=top)
    try:
        deadline = time.monotonic() + 20
        while not journal.exists() or sum(not path.suffix for path in journal.iterdir()) < 6:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(20)
        enough.set()
    assert not into.exists()
    left = sum(not path.suffix for path in journal.iterdir())
    next(path for path in journal.iterdir() if not path.suffix).write_bytes(b"damaged since")

    server.log.clear()
    fetched = fetch(links, into)
    assert len(server.log) == fetched.fetched == 30 - (left - 1)
    assert fetched.kept == left - 1 >= 5
    assert not journal.exists()
    fetch(links, tmp_path / "at once")
    assert files(into) == files(tmp_path / "at once")


def test_what_goes_wrong_on_this_side_ends_the_run_and_leaves_what_was_fetched(server, tmp_path):
    server.pages |= {f"/{n}": RED for n in range(20)}
    links = {str(n): f"{server.address}/{n}" for n in range(20)}

    def progress(done, total, note):
        if done == 10:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fetch(links, tmp_path / "p", progress=progress)
    server.log.clear()
    assert fetch(links, tmp_path / "p").kept >= 10
    assert len(server.log) < 20  # not all again; a request of the first run may still come in


def test_progress_counts_items_and_failures(server, tmp_path):
    server.pages["/1"] = RED
    calls = []
    links = {"1": server.address + "/1", "2": server.address + "/1", "3": server.address + "/no", "4": None, "5": "x"}
    fetch(links, tmp_path, progress=lambda *call: calls.append(call))
    assert calls[0] == (2, 5, "1 failed")
    assert calls[-1] == (5, 5, "2 failed")
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


def test_nothing_to_fetch_and_nothing_to_be_had_are_no_exceptions(dead, tmp_path):
    fetched = fetch({"a": dead + "/1", "b": None}, tmp_path / "a")
    assert fetched.coverage["errors"] == {"connection refused": 1}
    assert fetch({}, tmp_path / "b").coverage == {
        **{"items": 0, "ok": 0, "failed": 0, "no_link": 0, "bytes": 0, "errors": {}}
    }
    assert read_table(tmp_path / "b/pictures.parquet").schema == COVERAGE


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (pa.table({"item": ["1"]}), "no column 'url' in the items; it has item"),
        (pa.table({"item": ["1", "1"], "url": ["a", "b"]}), "item '1' occurs twice"),
        (pa.table({"item": ["1", None], "url": ["a", "b"]}), "an item has no name"),
    ],
)
def test_items_that_cannot_be_told_apart_are_an_error(items, says, tmp_path):
    with pytest.raises(DataError, match=says):
        fetch_pictures(items, tmp_path, QUICK)


def test_addresses_are_not_logged(server, tmp_path, caplog):
    caplog.set_level("INFO")
    server.pages["/1?token=secret"] = RED
    fetch({"1": server.address + "/1?token=secret", "2": server.address + "/2?token=secret"}, tmp_path)
    assert outcomes(tmp_path) == {"1": "ok", "2": "404"}
    assert "secret" not in caplog.text


@pytest.mark.parametrize("wrong", [{"per_host": 0}, {"pause": -1.0}, {"timeout": 0.0}, {"tries": 0}, {"speed": 1}])
def test_a_configuration_out_of_range_is_an_error(wrong):
    with pytest.raises(ValidationError):
        PicturesConfig(**wrong)
