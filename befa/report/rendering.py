"""The report as one HTML file that opens from disk, as Markdown, as LaTeX, and as a table of all figures."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def write(
    into: Path, found: Sequence[Table], pictures: Sequence[Picture], missing: Mapping[str, Sequence[str]]
) -> None:
    """Writes report.html, report.md, report.tex and figures.csv into a folder.

    `missing` are the stages that would have to be run first, each with the cells that wait for it.
    """
    plain = Environment(
        loader=PackageLoader("befa.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    plain.filters |= {"tex": tex, "unnumbered": _unnumbered, "embedded": _embedded, "anchor": anchor}
    escaped = plain.overlay(autoescape=True)
    braces = plain.overlay(  # LaTeX is full of curly ones
        block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>"
    )
    for name, environment in (("report.html", escaped), ("report.md", plain), ("report.tex", braces)):
        template = environment.get_template(f"{name}.j2")
        text = template.render(tables=found, pictures=pictures, missing=missing, headings=_headings)
        with tables.whole(into / name) as part:
            part.write_text(text, encoding="utf-8")
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


def anchor(name: str) -> str:
    """A figure's name as the end of a link."""
    return re.sub(r"[^\w-]+", "-", name)


def tex(text: str) -> str:
    """Text in which LaTeX reads no commands."""
    return "".join(TEX.get(letter, letter) for letter in text)


def _unnumbered(title: str) -> str:
    """Without the paper's number: LaTeX has its own."""
    return re.sub(r"^Table \d+: ", "", title)


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
