"""Errors that a user can act on: what went wrong, where, and the mend."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

LISTED = 40
"""Known names in a message."""

COMPARED = 50_000
"""Ids up to which an unknown one is compared with every one of them."""


class BefaError(Exception):
    """A problem the user can mend. Printed as one line and exit code 1, never as a traceback."""

    def __init__(self, what: str, *, where: object = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, where, mend
        text = what if where is None else f"{what} in {where}"
        super().__init__(text if mend is None else f"{text}; {mend}")


class ConfigError(BefaError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class DataError(BefaError):
    """Raw or derived data is absent, broken, or not what its name says."""


class FeatureError(BefaError):
    """A feature store is of another encoder, dataset or dimension than asked for, or misses too many items."""


class EncoderError(BefaError):
    """An encoder's weights are absent, incomplete, or do not belong to its architecture."""


class TrainingError(BefaError):
    """Training cannot go on: the loss is not finite, or a checkpoint does not fit its configuration."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, or its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """The mend for a misspelt name: the closest known one first, then all of them, or as many as one can look over."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    listing = f"known: {', '.join(known[:LISTED]) or 'nothing'}{more}"
    return f"did you mean {close[0]!r}? ({listing})" if close else listing


def nearest_id(wanted: str, known: Sequence[str]) -> str:
    """The mend for an unknown raw id, among as many as there may be."""
    # difflib looks at every id; among many, at those that begin alike.
    alike = known if len(known) <= COMPARED else [other for other in known if other[:3] == wanted[:3]]
    close = difflib.get_close_matches(wanted, alike, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"ids are such as {', '.join(known[:3])}"


def lookup(registry: Mapping[str, T], name: str, kind: str) -> T:
    """`registry[name]`, or a ConfigError that names the nearest entry.

    `kind` says what the registry holds ("model", "dataset").
    """
    if name not in registry:
        raise ConfigError(f"unknown {kind} {name!r}", mend=nearest(name, registry))
    return registry[name]
