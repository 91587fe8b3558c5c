"""Keeps pages of other sites out where nobody is asked for a key. Knows nothing of keys, paths or answers.

A browser lets any page send a plain POST to any address, the loopback address of its own machine too; what it always
adds is where the page comes from. Without this a page that somebody reads could write outcomes.
"""

from everloop.errors import RequestError
from everloop.serve.heads import Headers
from everloop.serve.settings import Cors, is_loopback


class Pages:
    """``cors``: whose pages may ask; ``loopback``: only this machine reaches the server."""

    def __init__(self, cors: Cors | None, *, loopback: bool) -> None:
        self._loopback = loopback
        self._every = cors is not None and "*" in cors.origins
        self._origins = {origin.lower().encode() for origin in cors.origins} if cors is not None else set()

    def check(self, headers: Headers) -> None:
        """Raises RequestError (403) for a request that a page of another site makes."""
        origin = headers.get(b"origin")
        if origin is None or self._every or origin.lower() in self._origins:
            return
        host = headers.get(b"host", b"").lower()
        if origin.lower().partition(b"://")[2] == host and (not self._loopback or is_loopback(name_of(host))):
            return  # a page of ours; under a name of somebody else's that leads here it would not be
        raise RequestError(
            f"A page of {origin[:100].decode(errors='replace')} asks; without a key only pages of this server may. "
            "Ask for keys (keys = true), or name the origin under cors in [ENV.serve].",
            status=403,
            reason="origin",
        )


def name_of(host: bytes) -> str:
    """The name or address in a Host header, without its port.

    >>> name_of(b"localhost:8700"), name_of(b"[::1]:8700"), name_of(b"::1")
    ('localhost', '::1', '::1')
    """
    text = host.decode("latin-1")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text if text.count(":") > 1 else text.partition(":")[0]
