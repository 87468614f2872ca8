"""The tables as data: every figure with its name, the published one, and the command that makes it."""

from dataclasses import dataclass
from typing import Literal

from befa.report.results import State

Form = Literal["ratio", "gain", "percent", "share", "count", "seconds", "degrees", "number", "change", "text"]


@dataclass(frozen=True)
class Value:
    """One figure of one table."""

    name: str
    """As `python -m pipelines cell` takes it: table2/hm/clip/bm3+befa/recall@20."""
    state: State
    command: str
    """What makes it, or makes it anew."""
    form: Form = "ratio"
    ours: int | float | str | None = None
    deviation: float | None = None
    """Sample standard deviation over seeds."""
    seeds: int = 0
    published: int | float | None = None
    source: str = ""
    """Of the published figure."""
    remark: str = ""
    """What is wrong with the published figure, or what ours was measured on."""
    stars: str = ""
    interval: tuple[float, float] | None = None
    """95 % interval of a gain over users."""
    p: float | None = None
    """Of a gain: paired t-test over users, corrected by Holm's method where the table has stars."""
    protocol: str = ""
    """Under which ours was trained and scored (docs/protocols.md)."""

    @property
    def not_run(self) -> bool:
        """Whether there is no result yet; False also where there is one that has no such figure."""
        return self.ours is None and self.state.status in ("absent", "unlisted")

    @property
    def difference(self) -> int | float | None:
        """Ours over the published figure, less 1; of gains and percentages, the difference of the two."""
        if not isinstance(self.ours, int | float) or self.published is None:
            return None
        if self.form in ("gain", "percent"):
            return self.ours - self.published
        return self.ours / self.published - 1 if self.published else None

    @property
    def shown(self) -> str:
        """Ours as text, with deviation and stars; a dash where there is a result that does not give it."""
        if self.not_run:
            return "not run"
        deviation = "" if self.deviation is None else f" ± {_text(self.deviation, self.form).lstrip('+')}"
        return f"{_text(self.ours, self.form)}{deviation}{self.stars}"

    @property
    def shown_published(self) -> str:
        """The published figure as text."""
        return _text(self.published, self.form)

    @property
    def shown_difference(self) -> str:
        """The difference as text: points for gains and percentages, to the digits that these are shown with."""
        if self.difference is None:
            return ""
        if self.form in ("gain", "percent"):
            digits = 1 if self.form == "gain" else 3
            return f"{round(100 * self.difference, digits) + 0:+.{digits}f} points"  # adding 0 makes a 0 of -0
        return f"{round(self.difference, 3) + 0:+.1%}"


REPRO = "dvc repro "
FORMATS = {
    "ratio": ".4f",
    "gain": "+.1%",
    "percent": ".3%",
    "share": ".0%",
    "count": ",.0f",
    "seconds": ".2f",
    "degrees": ".1f",
    "number": ".3f",
    "change": "+.4f",
}
WORST_FIRST = ("unlisted", "absent", "stale", "current")


def together(*values: Value) -> tuple[State, str]:
    """The state of a figure that is made of several, the worst of theirs; and the command that makes them all."""
    worst = min(values, key=lambda value: WORST_FIRST.index(value.state.status))
    if worst.state.status == "unlisted":
        return worst.state, worst.command
    targets = dict.fromkeys(target for value in values for target in value.command.removeprefix(REPRO).split())
    return worst.state, REPRO + " ".join(targets)


def made_of(name: str, *values: Value, form: Form) -> Value:
    """A figure that is made of several, with what it has of theirs (see `together`), still without its number."""
    state, command = together(*values)
    protocols = dict.fromkeys(value.protocol for value in values if value.protocol)
    return Value(name, state, command, form=form, protocol=" and ".join(protocols))


def _text(value: int | float | str | None, form: Form) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return format(value, FORMATS[form])


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    label: str
    values: tuple[Value | None, ...]
    """One per column; None where there is nothing to say."""
    last: bool = False
    """Whether a group of lines ends here."""


@dataclass(frozen=True)
class Table:
    """One table of the report."""

    key: str
    """For links and file names."""
    title: str
    note: str
    """What it shows, and what its marks mean."""
    groups: tuple[tuple[str, int], ...]
    """Headings above the columns, each with how many columns it spans."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def values(self) -> list[Value]:
        """All its figures."""
        return [value for row in self.rows for value in row.values if value is not None]
