"""Where a mirror is, and how its address is shown."""

import os
import re
from urllib.parse import quote

import httpx

from befa.errors import ConfigError

ANOTHER = "name another mirror in params.yaml or in the environment variable BEFA_MIRROR_<DATASET>"


def variable_of(name: str) -> str:
    """The environment variable that holds the mirror of a dataset or encoder."""
    return "BEFA_MIRROR_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def mirrors(configured: str | None, dataset: str) -> str | None:
    """The mirror of `dataset`: the environment's BEFA_MIRROR_<DATASET>, else the configured one, else None.

    Raises ConfigError when the configured one holds a password or a query string. It is written to dvc.lock, which is
    shared; the environment is not.
    """
    variable = variable_of(dataset)
    if os.environ.get(variable):
        return os.environ[variable]
    if configured is not None and shown(configured) != configured:
        raise ConfigError(
            f"the mirror of {dataset} holds a password or a query string, which dvc.lock would keep",
            where="params.yaml",
            mend=f"put the whole address into the environment variable {variable} instead",
        )
    return configured


def shown(address: str) -> str:
    """`address` as it may be printed: without user, password, query and fragment. A path stays as it is."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return re.sub(r"^[^/\s]*:[^/\s]*@", "", address)  # an address whose http:// was forgotten
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    # A password with a bare "/", "?" or "#" ends the authority too early: what then looks like a host is none.
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:@\[\]]*)(:\d*)?", host):
        return f"{scheme}://..."
    return f"{scheme}://{host}{slash}{path}"


def address_of(mirror: str, name: str) -> httpx.URL:
    """Where `name` lies below `mirror`, or `mirror` itself if it is that file's address; a query string is kept."""
    try:
        base = httpx.URL(mirror).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        raise ConfigError("not a valid address", where=shown(mirror), mend=ANOTHER) from None
    if base.scheme not in ("http", "https") or not base.host:
        mend = "a mirror is a folder, a file, or an address that begins with http:// or https://"
        raise ConfigError("no way to fetch from there", where=shown(mirror), mend=mend)
    if base.path.rpartition("/")[2] == name:
        return base
    path, mark, query = base.raw_path.partition(b"?")
    return base.copy_with(raw_path=path.rstrip(b"/") + b"/" + quote(name, safe="").encode() + mark + query)
