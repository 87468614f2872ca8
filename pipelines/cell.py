"""One figure of the experiment: its number, the published one, the command, and the way from the raw data to it."""

from difflib import get_close_matches
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from befa import config
from befa.errors import ConfigError, lookup
from befa.paths import Layout
from befa.report import contents
from befa.report.values import REPRO, Value
from pipelines import provenance
from pipelines.provenance import Provenance
from pipelines.stages.report import gathered
from pipelines.terminal import console


def show(name: str, layout: Layout) -> None:
    """Prints the figure `name` (table2/hm/clip/bm3+befa/recall@20). Raises ConfigError when there is none such."""
    if name.count("/") < 2:  # before the graph is read, which takes long
        raise ConfigError(f"no figure {name!r}", mend="figures are named such as table2/hm/clip/bm3+befa/recall@20")
    with provenance.read() as graph:
        value = find(name, layout, graph)
        targets = value.command.removeprefix(REPRO).split() if value.command.startswith(REPRO) else []
        chain = list(dict.fromkeys(link for target in targets if target in graph for link in graph.chain(target)))
    shown = Table(title=value.name, show_header=False)
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    for what, text in facts(value):
        shown.add_row(what, escape(text))
    out = console()
    out.print(shown)
    if chain:
        out.print("\nMade from, as dvc.lock has it (md5, bytes, artifact):", style="bold")
    for stage, links in groupby(chain, key=lambda link: link.stage):
        out.print(f"  {stage}", style="bold", highlight=False)
        for link in links:
            size = "" if link.size is None else f"{link.size:,}"
            out.print(f"    {link.md5 or 'not made':<36} {size:>13}  {link.path}", highlight=False, soft_wrap=True)


def find(name: str, layout: Layout, graph: Provenance) -> Value:
    """The figure of that name."""
    parts = name.split("/")
    # A table is of one encoder, and its stars are corrected over it: all of its cells are wanted, and no others.
    encoder = parts[2] if parts[0] not in ("table1", "significance") and len(parts) > 2 else None
    if encoder is not None:
        lookup(config.block(config.read_params(layout.params), "encoders"), encoder, "encoder")
    found = {value.name: value for table in contents.tables(gathered(layout, graph, encoder)) for value in table.values}
    if name not in found:
        near = get_close_matches(name, found, n=3, cutoff=0.5)
        mend = f"did you mean {' or '.join(near)}?" if near else "names are in data/reports/experiment/figures.csv"
        raise ConfigError(f"no figure {name!r}", mend=mend)
    return found[name]


def facts(value: Value) -> list[tuple[str, str]]:
    """What is to be said of a figure, as label and text."""
    told = [("ours", value.shown + (f" ({value.seeds} seed{'s' * (value.seeds > 1)})" if value.seeds else ""))]
    if value.interval is not None:
        told.append(("95 % interval", " to ".join(f"{end:+.1%}" for end in value.interval)))
    if value.published is not None:
        told += [("paper", f"{value.shown_published} ({value.source})"), ("difference", value.shown_difference or "–")]
    if value.protocol:
        told.append(("protocol", value.protocol))
    if value.remark:
        told.append(("remark", value.remark))
    detail = f": {value.state.detail}" if value.state.detail else ""
    return [*told, ("status", value.state.status + detail), ("command", value.command)]
