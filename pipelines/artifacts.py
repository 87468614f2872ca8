"""What flows show in Prefect's UI beside their logs: progress, certificates, coverage, result tables."""

import logging
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import ParamSpec
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from befa import tables
from befa.report import table_1, text_tables

P = ParamSpec("P")

log = logging.getLogger(__name__)

UNITS = {"": 1, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}

# As pipelines/progress.py writes it: `encode images: 64 of 496, 12.3/s, 35 s left`.
# With the rate behind it: other lines of a log say "5 of 16", too.
SHARE = re.compile(r"([\d,.]+) ?(bytes|kB|MB|GB|TB|) of ([\d,.]+) ?(bytes|kB|MB|GB|TB|)\b(?: \w+)?, [\d,.]+ ?\w*/s\b")


def harmless(show: Callable[P, None]) -> Callable[P, None]:
    """A picture in the UI is not worth a stage: what goes wrong with it is said, and no more."""

    @wraps(show)
    def shown(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            show(*arguments, **options)
        except Exception as error:
            log.warning("the UI gets no artifact: %s", error)

    return shown


def key(*words: str) -> str:
    """A key as Prefect wants it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def share(line: str) -> float | None:
    """How far a log line says its stage is, in percent; None if it says nothing of it."""
    if (found := SHARE.search(line)) is None:
        return None
    done, done_unit, total, total_unit = found.groups()
    whole = _number(total) * UNITS[total_unit]
    return min(100.0, 100 * _number(done) * UNITS[done_unit] / whole) if whole else None


def _number(text: str) -> float:
    return float(text.replace(",", "").rstrip(".") or 0)


class Progress:
    """A stage's progress bar in the UI, moved by its log lines; without such lines there is none."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None

    def __call__(self, line: str) -> None:
        """Takes one line of the stage's log."""
        if (percent := share(line)) is not None:
            self._show(percent, line)

    def end(self) -> None:
        """The stage has ended well."""
        if self._artifact is not None:
            self._show(100.0, self._stage)

    @harmless
    def _show(self, percent: float, text: str) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, key=key("progress", self._stage), description=text)
        else:
            update_progress_artifact(self._artifact, percent, description=text)


@harmless
def publish(outs: Iterable[str]) -> None:
    """Shows those of a stage's outputs that a person wants to see."""
    for out in outs:
        for pattern, markdown in PAGES.items():
            if fnmatch(out, pattern) and Path(out).exists():
                # No link: a browser opens no file from a page of the web, and the worker may be another machine.
                place = f"`{out}` in `{Path.cwd()}` on {socket.gethostname()}"
                show(page(out), "\n\n".join([markdown(Path(out)), *links(out), place]), out)


def page(out: str) -> str:
    """The key of an output's page. The folders tell one output from its like: dataset, encoder."""
    return key(Path(out).stem, *Path(out).parts[2:-1])


def links(out: str) -> list[str]:
    """From a dataset's table to the pages of what it was made of, as addresses within the UI; of other outputs none."""
    if not fnmatch(out, "data/reports/*.md"):
        return []
    dataset = Path(out).parts[2]
    sources = [Path("data/filtered", dataset, "stats.json"), *sorted(Path("data/features", dataset).glob("*/*.json"))]
    made_of = [f"[{path.as_posix()}](/artifacts/key/{page(path.as_posix())})" for path in sources if path.exists()]
    return [f"Made of: {', '.join(made_of)}"] if made_of else []


@harmless
def show(name: str, markdown: str, description: str) -> None:
    """A page in the UI; `description` is what lists of pages have of it."""
    create_markdown_artifact(markdown, key=name, description=description)


def certificate(path: Path) -> str:
    """The filter's certificate: sizes beside the paper's, and what every step left."""
    return f"# Filter\n\n{table_1.markdown(table_1.table(path.parent.name, tables.read_json(path)))}"


def coverage(path: Path) -> str:
    """What a feature store covers."""
    report = tables.read_json(path)
    rows = [(name, _text(value)) for name, value in report.items() if not isinstance(value, list | Mapping)]
    title = f"# Coverage of {'/'.join(path.parts[-3:-1])}, {path.name.partition('.')[0]}"
    return "\n".join([title, "", *text_tables.markdown(("", "value"), rows, left=1)])


def text(path: Path) -> str:
    """A page that its stage has written."""
    return path.read_text(encoding="utf-8")


PAGES: Mapping[str, Callable[[Path], str]] = {
    "data/filtered/*/stats.json": certificate,
    "data/features/*.coverage.json": coverage,
    "data/reports/*.md": text,
}


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
