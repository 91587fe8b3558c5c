"""Lets pages of declared origins ask from a browser (CORS). Knows nothing of keys or paths."""

from everloop.serve.exchange import Exchange
from everloop.serve.heads import Headers
from everloop.serve.settings import Cors

EXPOSED = b"x-request-id, retry-after, ratelimit, ratelimit-policy"
PLAIN = b"text/plain"


class CrossOrigin:
    """An origin that is not declared gets no permission: its browser keeps the answer from the page."""

    def __init__(self, cors: Cors) -> None:
        self._every = "*" in cors.origins
        self._origins = {origin.lower().encode() for origin in cors.origins}
        self._asked = (
            b"access-control-allow-methods: "
            + ", ".join(cors.methods).encode()
            + b"\r\naccess-control-allow-headers: "
            + ", ".join(cors.headers).encode()
            + b"\r\naccess-control-max-age: %d\r\n" % cors.seconds
        )

    def answers(self, exchange: Exchange, headers: Headers) -> bool:
        """Write the permission to the answer, whatever that will be; True: this was the browser's question before."""
        allowed = self._permission(headers[b"origin"])
        exchange.lines += allowed
        if exchange.method == b"OPTIONS" and b"access-control-request-method" in headers:
            exchange.lines += self._asked if allowed else b""
            exchange.finish(200, b"", PLAIN)
            return True
        return False

    def _permission(self, origin: bytes) -> bytes:
        expose = b"access-control-expose-headers: " + EXPOSED + b"\r\n"
        if self._every:
            return b"access-control-allow-origin: *\r\n" + expose
        if origin.lower() in self._origins:
            return b"access-control-allow-origin: " + origin + b"\r\nvary: origin\r\n" + expose
        return b""
