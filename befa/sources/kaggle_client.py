"""Downloads through Kaggle's own command line client, with the credentials where that client looks for them.

The places, and their order, are those of the client's version 2.2.4 (kaggle/api/kaggle_api_extended.py and
kagglesdk/kaggle_env.py).
"""

import base64
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

from befa.errors import ConfigError, DataError
from befa.progress import Progress

log = logging.getLogger(__name__)

SETTINGS = "https://www.kaggle.com/settings/api"


@dataclass(frozen=True)
class _Credential:
    """Something that the client would log in with, and where it stands. Not to be shown: hence no secret in repr."""

    place: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"_Credential({self.place!r})"


def credentials() -> str | None:
    """The place that the client would take credentials from ("the environment variable KAGGLE_API_TOKEN"), or None.

    Only whether something is there is looked at, not whether Kaggle accepts it; the value is never returned.
    """
    return next((credential.place for credential in _credentials()), None)


def download(
    kind: Literal["dataset", "competition"],
    slug: str,
    into: Path,
    name: str,
    *,
    bytes_expected: int | None = None,
    progress: Progress | None = None,
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
) -> Path:
    """The archive of a dataset (`owner/name`) or of a competition, at `into / name`. Returns that path.

    Until it is whole it lies in the folder `name.kaggle`, where the client resumes it the next time. Raises ConfigError
    for what is no slug, and DataError when the client is not installed, finds no credentials, or fails. A file that is
    there already is replaced. `progress` is told the bytes that have come, out of `bytes_expected`.
    """
    _check(kind, slug)
    if importlib.util.find_spec("kaggle") is None:
        mend = "run `make environment`, which installs it"
        raise DataError("Kaggle's client is not installed", where=sys.prefix, mend=mend)
    place = credentials()
    if place is None:
        raise DataError("no credentials for Kaggle", where=_config_folder() / "kaggle.json", mend=WHERE_TO_PUT_THEM)
    # Beside the target, so that the last step is a rename on the same disk.
    folder = into / f"{name}.kaggle"
    folder.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s %s with the credentials of %s", kind, slug, place)
    plural, option = ("datasets", "-d") if kind == "dataset" else ("competitions", "-c")
    # -P: a folder named kaggle where the stage happens to run is not the client.
    command = [sys.executable, "-P", "-m", "kaggle", plural, "download", option, slug, "-p", str(folder), "-q"]
    # In either of these variables, the client would print its requests with the key in their headers.
    environment = {key: value for key, value in os.environ.items() if key not in ("VERBOSE", "VERBOSE_OUTPUT")}
    before = _secrets()
    with _watched(folder, bytes_expected, progress):
        done = run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    stem = slug.split("/")[1] if kind == "dataset" else slug
    came = sorted(path for path in folder.iterdir() if path.stem == stem)
    if done.returncode != 0 or len(came) != 1:
        # The client itself may have renewed or removed a login meanwhile: the old one and the new one are secret.
        output = _redacted(done.stdout or "", before | _secrets())
        raise _failure(kind, slug, output if done.returncode else "it ended well, but brought no file", place)
    came[0].replace(into / name)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    return into / name


@contextmanager
def _watched(folder: Path, expected: int | None, progress: Progress | None) -> Iterator[None]:
    """Tells `progress` of the folder's growth: the client's own bar is on an output that may hold secrets."""
    if progress is None:
        yield
        return
    ended = Event()

    def watch() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            with suppress(FileNotFoundError):  # the client gives a file its name meanwhile
                progress(sum(path.stat().st_size for path in folder.iterdir()), expected)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


SECONDS_BETWEEN_LOOKS = 0.5

WHERE_TO_PUT_THEM = (
    f"make an API token at {SETTINGS} and put it into the environment variable KAGGLE_API_TOKEN or the file "
    "~/.kaggle/access_token (or KAGGLE_USERNAME and KAGGLE_KEY, or kaggle.json)"
)


def _check(kind: str, slug: str) -> None:
    """A slug goes on a command line: one that begins with a hyphen would be an option."""
    part = r"[A-Za-z0-9][\w.-]*"
    pattern = rf"{part}/{part}(/\d+)?" if kind == "dataset" else part
    if not re.fullmatch(pattern, slug, re.ASCII):
        form = "owner/name" if kind == "dataset" else "name"
        raise ConfigError(f"{slug!r} is no {kind} of Kaggle", mend=f"write it as in the page's address: {form}")


def _secrets() -> set[str]:
    return {secret for credential in _credentials() for secret in credential.secrets}


def _config_folder() -> Path:
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(os.environ["KAGGLE_CONFIG_DIR"])
    folder = Path("~/.kaggle").expanduser()
    if sys.platform.startswith("linux") and not folder.exists():
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "kaggle"
    return folder


def _credentials() -> Iterator[_Credential]:
    """What there is, in the client's order. Not the client's own functions: importing it logs in."""
    token = os.environ.get("KAGGLE_API_TOKEN")
    if token:
        with suppress(OSError, ValueError):
            # The variable may hold the token's path instead of the token.
            token = Path(token).read_text(encoding="utf-8").strip()
    if token:
        yield _Credential("the environment variable KAGGLE_API_TOKEN", (token,))
    home = Path("~/.kaggle").expanduser()  # these files stay here whatever KAGGLE_CONFIG_DIR says
    for path in (home / "access_token", home / "access_token.txt"):
        with suppress(OSError, ValueError):
            if token := path.read_text(encoding="utf-8").strip():
                yield _Credential(str(path), (token,))
    yield from _keys()
    login = _json(home / "credentials.json")
    if login.get("refresh_token"):
        tokens = tuple(str(login[key]) for key in ("refresh_token", "access_token") if login.get(key))
        yield _Credential(str(home / "credentials.json"), tokens)


def _keys() -> Iterator[_Credential]:
    """User name and key; the environment's go before the file's, each by itself."""
    path = _config_folder() / "kaggle.json"
    kept = _json(path)
    user = os.environ.get("KAGGLE_USERNAME", kept.get("username"))
    key = os.environ.get("KAGGLE_KEY", kept.get("key"))
    if user and key:
        place = "the environment variable KAGGLE_KEY" if "KAGGLE_KEY" in os.environ else str(path)
        # The second form is what goes over the line.
        yield _Credential(place, (str(key), base64.b64encode(f"{user}:{key}".encode()).decode()))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _redacted(output: str, secrets: set[str]) -> str:
    """The client's output without keys, tokens and query strings, in which Kaggle's addresses are signed."""
    for secret in sorted(secrets, key=len, reverse=True):
        output = output.replace(secret, "***")
    return re.sub(r"\?[^\s'\")]+", "?***", output)


def _failure(kind: str, slug: str, output: str, place: str) -> DataError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    page = f"https://www.kaggle.com/{'datasets' if kind == 'dataset' else 'competitions'}/{slug}"
    if "Authentication required" in output or re.search(r"\b401\b", last):
        mend = f"they are out of date or mistyped: make new ones at {SETTINGS}"
        return DataError(f"Kaggle refuses the credentials from {place}", where=page, mend=mend)
    if re.search(r"Errno 28|No space left|[Dd]isk quota", last):
        return DataError(f"Kaggle's client failed ({last})", where=page, mend="make room on the disk")
    if re.search(r"\b403\b|forbidden|permission|\brules\b", last, re.IGNORECASE):
        rules = f"accept the competition's rules on its page, {page}/rules"
        mend = rules if kind == "competition" else "look whether your account can open that page"
    else:
        mend = "look whether the page is there and Kaggle can be reached, then run again: it is resumed"
    return DataError(f"Kaggle's client failed ({last})", where=page, mend=mend)
