"""What the server answers at which path. Knows nothing of sockets, models or batches."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from everloop.errors import RequestError
from everloop.serve import urgency, v2_routes
from everloop.serve.aside import Aside, Large
from everloop.serve.bounds import Bounds
from everloop.serve.counts import Counts
from everloop.serve.exchange import Exchange, Observer
from everloop.serve.exposition import families
from everloop.serve.families import CONTENT_TYPE, Families
from everloop.serve.heads import Headers
from everloop.serve.http import Connection
from everloop.serve.journal import say
from everloop.serve.pages import Pages
from everloop.serve.paths import plain_path
from everloop.serve.repository import Repository
from everloop.serve.service import Resting, Service

Handler = Callable[[Exchange, Headers, bytes], None]
Methods = dict[bytes, Handler]
Routes = dict[bytes, Methods]


class Gate(Protocol):
    """Stands before every request: who may come in, and how often."""

    def admit(self, exchange: Exchange, headers: Headers, body: bytes) -> bool:
        """Whether it goes on, with what is known of the caller written to the exchange; False: it is answered here.

        ``headers`` may be shared with other requests: they are read only. Raises RequestError (401, 403, 429).
        """
        ...

    def recognise(self, exchange: Exchange, headers: Headers) -> object:
        """Whose it is, before the body is there; counts nothing. Raises RequestError (401, 403)."""
        ...


class Application:
    """``draining``: ends each connection with its next answer. ``tick``: `Bounds.tick_seconds` since the start."""

    def __init__(self, services: Iterable[Service], gate: Gate | None = None, bounds: Bounds | None = None) -> None:
        self.services: dict[str, Service] = {}
        self.gate = gate
        self.pages: Pages | None = None
        """Holds pages of other sites off; None: whoever asks is asked for a key, or somebody else looks."""
        self.bounds = bounds or Bounds()
        self.observer: Observer | None = None
        """Is told of requests that were refused before the gate saw them."""
        self.repository: Repository | None = None
        """Which models there are, and loading and unloading them, where the server does that."""
        self.counts: Counts | None = None
        """Where several processes of one server put their counts together."""
        self.aside = Aside()
        """Decodes large pictures for requests that wait for it."""
        self.draining = False
        self.tick = 0
        self.refused: dict[tuple[int, str], int] = {}
        self.connections: set[Connection] = set()
        self.started = time.time()
        self._described: tuple[object, bytes] = (None, b"")
        """The last document, and what it was made of."""
        self._routes: Routes = self._made_routes()
        given = list(services)
        for service in given:
            self.services[service.name] = service
            self.add_service(service, alone=len(given) == 1)

    def add(self, routes: Routes) -> None:
        """More paths, each with what answers its methods."""
        self._routes.update(routes)

    @property
    def mark(self) -> object:
        """What differs whenever something was counted, as cheap as it can be told."""
        loops = [
            (each.outcomes_taken, each.follower.switches, [(meter.rows, meter.failed) for meter in each.predictor.meters.values()])
            for each in self.services.values()
        ]  # fmt: skip
        return sum(self.refused.values()), len(self.connections), loops

    def counted(self) -> Families:
        """What this process has counted."""
        return families(self.services.values(), self.refused, self.connections)

    def _made_routes(self) -> Routes:
        routes: Routes = {
            b"/v2": _get(self._server),
            b"/v2/health/live": _get(self._alive),
            b"/v2/health/ready": _get(self._ready),
            b"/metrics": _get(self._metrics),
            b"/status": _get(self._status),
            b"/openapi.json": _get(self._document),
            b"/docs": _get(self._page),
        }
        return routes

    def add_service(self, service: Service, *, alone: bool) -> None:
        """The paths of a loop; ``alone``: those without its name too."""
        name = b"/" + service.name.encode()
        for path in (name, b"") if alone else (name,):
            self._routes[b"/predict" + path] = {b"POST": service.predict}
            self._routes[b"/outcomes" + path] = {b"POST": service.outcomes}
        self._routes[b"/settled" + name] = {b"POST": service.settled}
        self._routes.update(v2_routes.of(service))

    def handle(self, exchange: Exchange, method: bytes, url: bytes, headers: Headers, body: bytes) -> None:
        try:
            if self.pages is not None and b"origin" in headers:
                self.pages.check(headers)
            if self.gate is not None and not self.gate.admit(exchange, headers, body):
                return
            methods = self._routes.get(url)
            if methods is None:
                methods = self._found(url)
            handler = methods.get(method)
            if handler is None:
                allowed = b", ".join(methods)
                message = f"{method.decode()} is not for this path; it takes {allowed.decode()}."
                exchange.refuse(405, message, b"allow: " + allowed + b"\r\n")
                return
            if (
                not exchange.plain
                and b"content-encoding" in headers
                and headers[b"content-encoding"].lower() != b"identity"
            ):
                raise RequestError("Send the body as it is, without a content-encoding.", status=415)
            if exchange.urgent:
                urgency.read(exchange, headers)
            handler(exchange, headers, body)
        except Exception as error:
            self._failed(error, exchange, method, url, headers, body)

    def _again(self, exchange: Exchange, method: bytes, url: bytes, headers: Headers, body: bytes) -> None:
        """For a request that has waited: who may come in was asked before."""
        try:
            if exchange.response is None:
                (self._routes.get(url) or self._found(url))[method](exchange, headers, body)
        except Exception as error:
            self._failed(error, exchange, method, url, headers, body)

    def _failed(
        self, error: Exception, exchange: Exchange, method: bytes, url: bytes, headers: Headers, body: bytes
    ) -> None:
        if isinstance(error, Resting) and not self.draining:
            try:
                error.service.parked.add(exchange, len(body), lambda: self._again(exchange, method, url, headers, body))
                return
            except RequestError as refused:
                error = refused
        if isinstance(error, Large):
            try:
                self.aside.add(exchange, error, lambda: self._again(exchange, method, url, headers, body))
                return
            except RequestError as refused:
                error = refused
        if isinstance(error, RequestError):
            exchange.refuse(error.status, str(error), reason=error.reason, retry_after=error.retry_after)
        else:
            say("request failed", error=repr(error), path=url.partition(b"?")[0].decode(errors="replace")[:200])
            exchange.refuse(500, "The server failed on this request; its log says more.")

    def turned_away(self, exchange: Exchange, headers: Headers) -> RequestError | None:
        """Why the rest of a long body need not come; None where it may."""
        try:
            if self.gate is not None:
                self.gate.recognise(exchange, headers)
        except RequestError as error:
            return error
        return None

    def _found(self, url: bytes) -> Methods:
        """The route of a path that is not written in its plain form. Raises RequestError (404)."""
        path = plain_path(url)  # as the gate reads it
        path = path.rstrip(b"/") or path
        methods = self._routes.get(path) or v2_routes.versioned(self.services, path)
        if methods is None:
            known = ", ".join(sorted(self.services)) or "none"
            shown = path.decode(errors="replace")[:200]
            raise RequestError(f"There is nothing at {shown}. Loops here: {known}.", status=404)
        return methods

    # What is not about one loop

    def _server(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        exchange.finish(200, msgspec.json.encode(v2_routes.server()))

    def _alive(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        exchange.finish(200, b'{"live":true}')

    def waits_for(self) -> str:
        """Why it is not ready; empty when it is."""
        waiting = [name for name, service in self.services.items() if not (service.ready or service.unloaded)]
        return (
            "the server is ending"
            if self.draining
            else (waiting and f"nothing is live yet for {', '.join(waiting)}") or ""
        )

    def _ready(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        because = self.waits_for()
        if because:
            raise RequestError(f"Not ready: {because}.", status=503, reason="not_ready")
        exchange.finish(200, b'{"ready":true}')

    def _metrics(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        counted = self.counted()
        if self.counts is not None:
            counted = self.counts.together(counted)
        exchange.finish(200, counted.text(), CONTENT_TYPE)

    def _document(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        lives = [service.predictor.live for service in self.services.values()]
        keys, root = bool(getattr(self.gate, "asks_for_keys", False)), getattr(exchange, "root", "")
        made_of = ([*map(id, lives)], keys, root)
        if self._described[0] != (made_of, lives):
            from everloop.serve import openapi  # loaded when somebody asks

            described = openapi.Described(
                services=tuple(self.services.values()), keys=keys, root=root, body_bytes=self.bounds.body_bytes
            )
            self._described = ((made_of, lives), msgspec.json.encode(openapi.document(described)))
        exchange.finish(200, self._described[1], extra=b"cache-control: no-cache\r\n")

    def _page(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        from everloop.serve.page import HTML, page  # loaded when somebody asks

        html, lines = page()
        exchange.finish(200, html, HTML, lines)

    def _status(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        answer = {
            "pid": os.getpid(),
            "seconds": round(time.time() - self.started, 1),
            "draining": self.draining,
            "connections": len(self.connections),
            "loops": {name: service.status() for name, service in self.services.items()},
        }
        exchange.finish(200, msgspec.json.encode(answer))


def _get(handler: Handler) -> Methods:
    return {b"GET": handler, b"HEAD": handler}
