"""What is asked for under each item's link."""

from collections import Counter
from dataclasses import dataclass

import httpx
import pyarrow as pa

from befa.errors import DataError

NO_ADDRESS = "not an http address"


@dataclass(frozen=True)
class Link:
    """An item's link as it was given, and as it is asked for."""

    item: str
    url: str | None
    address: str | None
    """What is asked for under `url`; None where there is nothing that http could be asked for."""


def links_of(items: pa.Table) -> list[Link]:
    """In sorted item order, so that the order of `items` is not in the files."""
    for name in ("item", "url"):
        if name not in items.column_names:
            raise DataError(f"no column {name!r}", where="the items", mend=f"it has {', '.join(items.column_names)}")
    names, urls = (items.column(name).cast(pa.string()).to_pylist() for name in ("item", "url"))
    if None in names:
        raise DataError("an item has no name", where="the items", mend="drop rows whose item is null")
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"item {twice!r} occurs twice", where="the items", mend="keep one row of each item")
    pairs = sorted(zip(names, urls, strict=True), key=lambda pair: pair[0])
    return [Link(item, url, None if url is None else address_of(url)) for item, url in pairs]


def address_of(url: str) -> str | None:
    """`url` as it is sent, or None where it is no http or https address."""
    try:
        parsed = httpx.URL(url.strip())
        if not parsed.scheme and parsed.host:  # "//host/1.jpg": as the page had it, and pages are https today
            parsed = parsed.copy_with(scheme="https")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return None
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65535:
        return None
    # A fragment is not sent: two links that differ only in it are one request.
    return str(parsed.copy_with(fragment=None))
