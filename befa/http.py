"""What fetching files and fetching pictures have in common."""

import logging
import time
from email.utils import parsedate_to_datetime


def retry_after(value: str | None) -> float | None:
    """Seconds from now that a Retry-After header asks for, at least 0, given as a number or a date; None if neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def keep_addresses_out_of_logs() -> None:
    """From here on httpx logs no address: at INFO it does each one's in full, with the signature or key in it."""
    for name in ("httpx", "httpcore"):  # httpcore: at DEBUG each redirect's
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
