"""Why a request came to nothing."""

import socket
import ssl
from collections.abc import Iterator

import httpx

from befa.pictures.links import NO_ADDRESS


def reason_of(error: Exception) -> tuple[str, bool]:
    """Short and the same in every run (no address, number or wording of the system's), and whether it may pass."""
    causes = list(_causes(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return "timed out", True
    if has(ssl.SSLCertVerificationError):
        return "certificate not valid", False
    if has(ssl.SSLError):
        return "TLS failed", True
    if has(socket.gaierror):
        return "name not resolved", True
    if has(ConnectionRefusedError):
        return "connection refused", True
    if isinstance(error, httpx.ConnectError):
        return "no connection", True
    if isinstance(error, (httpx.RemoteProtocolError, httpx.NetworkError)):
        return "connection dropped", True
    if isinstance(error, httpx.TransportError):
        return "request failed", True
    if isinstance(error, (UnicodeError, httpx.InvalidURL)):  # a name that DNS cannot have, such as "a..b"
        return NO_ADDRESS, False
    return f"request failed ({type(error).__name__})", False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            yield from _causes(inner)
        yield from _causes(error.__cause__ or error.__context__)
