"""What a path is about, so that the gate and the routes read it alike. Knows nothing of what answers there."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

About = Literal["health", "operate", "loop", "server"]
HEALTH = frozenset({b"/v2/health/live", b"/v2/health/ready"})
PAGE = b"/docs"
"""The page holds nothing of this server: it asks for the document like anybody, with the key that its reader gives it."""
SERVER = frozenset({b"/v2", b"/openapi.json"})
"""What any caller may read."""
OF_A_LOOP = frozenset({b"predict", b"outcomes", b"settled"})


@dataclass(frozen=True, slots=True)
class Place:
    """``loop``: whose, None for the only one that the server has."""

    about: About
    loop: bytes | None = None


def plain_path(url: bytes) -> bytes:
    """A path without query, host or percent signs.

    >>> plain_path(b"http://host/predict/%61?x=1")
    b'/predict/a'
    """
    path = url.partition(b"?")[0]
    if not path.startswith(b"/"):  # the absolute form, as to a proxy
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return unquote_to_bytes(path)


def place_of(url: bytes) -> Place:
    """What is not known to be about a loop or open to all is for operators: a new path is closed until it says more.

    >>> place_of(b"/v2/models/parcels/infer")
    Place(about='loop', loop=b'parcels')
    """
    path = plain_path(url).rstrip(b"/")
    if path in HEALTH or path == PAGE:
        return Place("health")
    if path in SERVER:
        return Place("server")
    parts = path.split(b"/")
    if len(parts) > 1 and parts[1] in OF_A_LOOP:
        return Place("loop", parts[2] if len(parts) > 2 else None)
    if parts[1:3] == [b"v2", b"models"] and len(parts) > 3:
        return Place("loop", parts[3])
    return Place("operate")
