"""The report as one HTML file that opens from disk, as Markdown, as LaTeX, and as a table of all figures."""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from befa import tables
from befa.errors import DataError
from befa.report.values import State, Table, Value

TEX = {
    **{letter: f"\\{letter}" for letter in "&%_#{}$"},
    **{"^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "\\": r"\textbackslash{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "λ": r"$\lambda$", "Λ": r"$\Lambda$", "–": "--", "<": "$<$", ">": "$>$"},
}
WIDEST = 1400
"""Pixels of a picture in the page."""
LETTERS, LONGEST = 100, 40
"""Of a line without its label, if groups of columns allow, and lines of a table on a printed page."""
LEGEND = (
    'A figure is "not run" where there is no result here, and what is missing stands below; it is "–" where there is a '
    "result that does not give it. A difference from the paper is relative, ours over the paper's less 1; that of two "
    "gains or densities, which are percentages themselves, is in points, ours less the paper's."
)


@dataclass(frozen=True)
class Picture:
    """A figure of the report."""

    title: str
    path: Path
    """A PNG."""
    command: str
    """What makes it."""
    state: State
    """How it stands to the code, parameters and data that are here now."""


@dataclass(frozen=True)
class Line:
    """One line of the list of figures in Markdown and LaTeX."""

    name: str
    shown: str
    published: str
    source: str
    difference: str
    command: str
    remarks: str


def write(
    into: Path, found: Sequence[Table], pictures: Sequence[Picture], missing: Mapping[str, Sequence[str]]
) -> None:
    """Writes report.html, report.md, report.tex and figures.csv into a folder.

    `missing` are the stages that would have to be run first, each with those that wait for it. Markdown and LaTeX show
    the pictures from where they lie.
    """
    plain = Environment(
        loader=PackageLoader("befa.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    plain.filters |= {
        "anchor": anchor,
        "beside": lambda path: os.path.relpath(path, into),
        "code": _code,
        "embedded": _embedded,
        "escaped": _escaped,
        "interval": _interval,
        "remarks": _remarks,
        "tex": tex,
    }
    escaped = plain.overlay(autoescape=True)
    braces = plain.overlay(  # LaTeX is full of curly ones
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    for name, environment in (("report.html", escaped), ("report.md", plain), ("report.tex", braces)):
        template = environment.get_template(f"{name}.j2")
        text = template.render(
            tables=found,
            pictures=pictures,
            missing=by_kind(missing),
            headings=_headings,
            blocks=blocks,
            lines=lines,
            legend=LEGEND,
        )
        tables.write_text(into / name, text)
    with tables.whole(into / "figures.csv") as part:
        frame(found).to_csv(part, index=False, lineterminator="\n")


def frame(found: Sequence[Table]) -> pd.DataFrame:
    """One row per figure."""
    return pd.DataFrame([_record(value) for table in found for value in table.values])


def _record(value: Value) -> dict[str, object]:
    low, high = value.interval or (None, None)
    return {
        "figure": value.name,
        "ours": None if isinstance(value.ours, str) else value.ours,
        "shown": value.shown,
        "deviation": value.deviation,
        "seeds": value.seeds or None,
        "published": value.published,
        "source": value.source,
        "difference": value.difference,
        "low": low,
        "high": high,
        "p": value.p,
        "stars": value.stars,
        "protocol": value.protocol,
        "status": value.state.status,
        "detail": value.state.detail,
        "remark": value.remark,
        "command": value.command,
    }


def lines(table: Table) -> list[Line]:
    """The table's figures with all that belongs to them; those of a row that wait for the same command are one."""
    found = []
    for row in table.rows:
        # One that has been run is alone: it has a name of its own.
        for _, group in groupby(filter(None, row.values), lambda v: (v.command, v.not_run or v.name)):
            first, *others = group
            published = [value.shown_published for value in (first, *others) if value.published is not None]
            found.append(
                Line(
                    name=first.name + (f" and {len(others)} more" if others else ""),
                    shown=first.shown + ("" if first.interval is None else f" ({_interval(first.interval)})"),
                    published=", ".join(published),
                    source=first.source,
                    difference=first.shown_difference,
                    command=first.command,
                    remarks="; ".join(dict.fromkeys(filter(None, map(_remarks, (first, *others))))),
                )
            )
    return found


def blocks(table: Table) -> list[Table]:
    """The table in parts that fit a printed page: whole groups of columns, and at most `LONGEST` lines."""
    letters = [
        max(len(text) for text in (column, *(_printed(row.values[place]) for row in table.rows))) + 2
        for place, column in enumerate(table.columns)
    ]
    spans: list[tuple[int, list[tuple[str, int]]]] = []
    """First column, and groups."""
    start = 0
    for name, span in table.groups or (("", len(table.columns)),):
        if not spans or sum(letters[spans[-1][0] : start + span]) > LETTERS:
            spans.append((start, []))
        spans[-1][1].append((name, span))
        start += span
    parts = []
    for first, groups in spans:
        end = first + sum(span for _, span in groups)
        for top in range(0, len(table.rows), LONGEST):
            rows = (replace(row, values=row.values[first:end]) for row in table.rows[top : top + LONGEST])
            headings = tuple(groups) if table.groups else ()
            parts.append(replace(table, groups=headings, columns=table.columns[first:end], rows=tuple(rows)))
    return parts


def _printed(value: Value | None) -> str:
    if value is None:
        return ""
    return value.shown + ("" if value.published is None else f" ({value.shown_published})")


def by_kind(missing: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    """What waits, by what comes first and by kind: a stage ("evaluate@"), or a command without its options.

    What waits for a stage of its own name alone (a cell's evaluation for its training) is put together: "train@".
    """
    found: dict[str, dict[str, list[str]]] = {}
    for first, waiting in missing.items():
        for one in waiting:
            kind, name = _kind(one)
            stage, of = _kind(first)
            found.setdefault(stage if of == name else first, {}).setdefault(kind, []).append(name)
    return found


def _kind(one: str) -> tuple[str, str]:
    """A stage's name, or a command up to its options; and the rest."""
    kind = re.match(r"[^@ ]+@|.+?(?= --)|.+", one)[0]
    return kind, one.removeprefix(kind).strip()


def anchor(name: str) -> str:
    """A figure's name as the end of a link."""
    return re.sub(r"[^\w-]+", "-", name)


def tex(text: str) -> str:
    """Text in which LaTeX reads no commands."""
    return "".join(TEX.get(letter, letter) for letter in text)


def _code(text: str) -> str:
    """A name or a command in LaTeX, which may be broken after its marks."""
    return r"\texttt{" + re.sub(r"([/@+-])", r"\1\\allowbreak{}", tex(text)) + "}"


def _escaped(text: str) -> str:
    """Text in which Markdown reads no marks."""
    return re.sub(r"([\\|*_<`])", r"\\\1", text)


def _remarks(value: Value) -> str:
    """What is to be known of a figure."""
    state = "" if value.state.status == "current" else ": ".join(filter(None, (value.state.status, value.state.detail)))
    seeds = f"seeds: {value.seeds}" if value.seeds else ""
    protocol = f"protocol: {value.protocol}" if value.protocol else ""
    return "; ".join(filter(None, (state, seeds, protocol, value.remark)))


def _interval(ends: tuple[float, float]) -> str:
    return " to ".join(f"{100 * end:+.1f}" for end in ends) + " %"


def _headings(table: Table) -> list[str]:
    """The heading above each column."""
    return [name for name, span in table.groups for _ in range(span)] or [""] * len(table.columns)


def _embedded(path: Path) -> str:
    """A picture as a data address, at most `WIDEST` pixels wide."""
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError:
        raise DataError("not a readable picture", where=path, mend="run the stage that draws it again") from None
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
