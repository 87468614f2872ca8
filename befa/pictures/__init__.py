"""Fetching a catalogue's pictures from their links: politely, a few at a time, and never twice.

A run leaves two files, `pictures.zip` and `pictures.parquet`, which say the same for the same pictures: no clock, host
or path is in them. A later run in the same folder keeps what is there and asks again only for what failed. What arrives
goes at once to a journal beside the folder (`<folder>.partial`), so that a run that was killed is taken up.

Links come from outside. Whatever is no http or https address is refused; where an address leads to is not looked at,
loopback and private networks included. Do not run this where such an answer would be a secret.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from befa.http import keep_addresses_out_of_logs
from befa.images import ImageFiles
from befa.pictures.asking import Fetcher, Tally, run
from befa.pictures.hosts import PicturesConfig
from befa.pictures.kept import Journal, kept_pictures
from befa.pictures.links import NO_ADDRESS, links_of
from befa.pictures.writing import ARCHIVE, COVERAGE, INDEX, coverage_of, row_of, write_archive
from befa.progress import Progress
from befa.tables import write_table

__all__ = ["ARCHIVE", "COVERAGE", "INDEX", "Fetched", "PicturesConfig", "fetch_pictures"]


@dataclass(frozen=True)
class Fetched:
    """What a run came to. Only `coverage` is the same for the same pictures; the counts are of this run."""

    coverage: dict[str, Any]
    """items, ok, failed, no_link, bytes, and errors: the count of each reason, the most frequent first."""
    kept: int
    """Items whose picture an earlier run had fetched."""
    fetched: int
    """Items whose picture this run fetched."""


def fetch_pictures(items: pa.Table, into: Path, config: PicturesConfig, *, progress: Progress | None = None) -> Fetched:
    """Writes `pictures.zip` and `pictures.parquet` (COVERAGE) in `into` for `items` (columns item, url; null: no link).

    An item whose link is that of a picture from an earlier run, or of a run that was killed, is not fetched again;
    equal links are fetched once. An item whose link changed is fetched anew, and has no picture if that fails. A link
    that does not lead to a picture is a row with the reason, never an exception, even if none does. Raises DataError
    when `items` lacks a column, or has an item twice or without a name.

    Runs an event loop of its own, so it cannot be called from inside one.
    """
    keep_addresses_out_of_logs()
    links = links_of(items)
    journal, earlier = Journal(into.with_name(into.name + ".partial")), ImageFiles(into)
    wanted = Counter(link.address for link in links if link.address is not None)
    before = kept_pictures(into, earlier, wanted)
    before |= journal.pictures(wanted.keys() - before.keys())
    asked = {address: count for address, count in wanted.items() if address not in before}
    found = before | run(Fetcher(config, journal, Tally(links, asked, progress)).fetch(asked))
    outcomes = [(link, found[link.address] if link.address is not None else NO_ADDRESS) for link in links]
    # The archive first: until the table follows, the old table's checksums tell which of its rows still hold.
    write_archive(into / ARCHIVE, outcomes, earlier)
    rows = [row_of(link, outcome) for link, outcome in outcomes]
    write_table(into / INDEX, pa.Table.from_pylist(rows, schema=COVERAGE))
    journal.remove()
    coverage = coverage_of(rows)
    kept = sum(link.address in before for link in links)
    return Fetched(coverage, kept=kept, fetched=coverage["ok"] - kept)
