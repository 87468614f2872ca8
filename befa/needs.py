"""What must be there before work can begin."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """One thing that is needed: a file, an account, room on the disk."""

    what: str
    there: bool
    mend: str = ""
    """What to do if it is not there."""
    later: bool = False
    """It comes over the network when it is needed; whether it can be had has not been asked."""
